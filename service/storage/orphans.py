"""Folders that no row needs: what a kill between the writing of files and the commit that names them leaves behind."""

import logging
import time
from collections.abc import Callable, Collection

from sqlalchemy import Connection, func, select

from service.errors import ArtifactCorrupt
from service.storage.files import Store
from service.storage.sessions import Database
from service.storage.tables import datasets, jobs, models

AGE_S = 3600.0
"""Files are named by a row within seconds of being written, or never."""
BATCH = 500
MARK = "database"
"""The file that says whose the store is: when its database got its first datasets, in epoch seconds."""
log = logging.getLogger(__name__)

Needed = Callable[[Connection, Collection[str]], set[str]]


def collect(store: Store, database: Database, *, age_s: float = AGE_S) -> list[str]:
    """Delete the folders that no row needs and that nothing changed for so long; their keys. Raises DependencyUnavailable.

    Another database's files are no orphans: nothing is removed from a store that another database has marked as its own, nor
    anything that is older than this database.
    """
    with database.read() as c:
        born = c.execute(select(func.min(datasets.c.created_at)).where(datasets.c.builtin)).scalar_one()
    if born is None:
        return []
    if not _marked(store, f"{born:.6f}"):
        log.warning("the files belong to another database, as %s has it: none is removed", MARK)
        return []
    removed = []
    for home, needed in KINDS.items():
        before = time.time() - age_s
        old = sorted(name for name, changed in store.folders(home).items() if born <= changed < before)
        for start in range(0, len(old), BATCH):
            batch = old[start : start + BATCH]
            with database.read() as c:
                kept = needed(c, batch)
            removed += [f"{home}/{name}" for name in batch if name not in kept]
    for key in removed:
        store.delete(key)
    return removed


def _marked(store: Store, mark: str) -> bool:
    """Whether the store is this database's; one that is nobody's yet is from now on."""
    try:
        return store.get(MARK).decode() == mark
    except ArtifactCorrupt:
        store.write(MARK, mark.encode())
        return True


def _datasets(c: Connection, names: Collection[str]) -> set[str]:
    return set(c.execute(select(datasets.c.id).where(datasets.c.id.in_(names))).scalars())


def _models(c: Connection, names: Collection[str]) -> set[str]:
    return set(c.execute(select(models.c.id).where(models.c.id.in_(names))).scalars())


def _jobs(c: Connection, names: Collection[str]) -> set[str]:
    """A failed or cancelled job may be tried again from its checkpoints; one that succeeded needs none."""
    return set(c.execute(select(jobs.c.id).where(jobs.c.id.in_(names), jobs.c.state != "succeeded")).scalars())


KINDS: dict[str, Needed] = {"datasets": _datasets, "jobs": _jobs, "models": _models}
