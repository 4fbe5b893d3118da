"""The datasets that are always there: `digits` and `diabetes`."""

import fcntl
import hashlib
import shutil
from pathlib import Path

from sqlalchemy import Connection, text

from service.data.columns import DESCRIPTION
from service.data.fields import Description
from service.data.ingest import run
from service.data.staging import STAGING, dataset_key
from service.errors import TemperError
from service.storage import datasets
from service.storage.datasets import DatasetDraft
from service.storage.files import Store
from service.storage.ids import new_id
from service.storage.sessions import Database

NAMES = ("digits", "diabetes")
SECONDS = 120.0
LOCK = 7_365_281_905  # of PostgreSQL's advisory locks, ours


def ensure(database: Database, store: Store, project: str = "default") -> None:
    """Create the built-in datasets that the project does not have yet; raises TemperError where they cannot be read."""
    store.workplace.mkdir(parents=True, exist_ok=True)
    # Several services may start at once on this machine, or share this folder.
    with (store.workplace / ".builtin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in NAMES:
            with database.read() as c:
                present = _present(c, project, name)
            if not present:
                _create(database, store, project, name)


def _present(c: Connection, project: str, name: str) -> bool:
    cursor = None
    while True:
        page = datasets.page(c, project, limit=200, cursor=cursor, name=name)
        if any(dataset.builtin for dataset in page.items):
            return True
        if (cursor := page.next_cursor) is None:
            return False


def _create(database: Database, store: Store, project: str, name: str) -> None:
    dataset_id = new_id("ds")
    home = store.workplace / STAGING / dataset_id
    home.mkdir(parents=True)
    done = run("service.data.builtin_rows", (name, str(home)), b"", seconds=SECONDS)
    if done.returncode:
        shutil.rmtree(home)
        raise TemperError(f"The built-in dataset {name} cannot be read.")
    description = Description.model_validate_json((home / DESCRIPTION).read_bytes())
    size, digest = _measured(home)
    draft = DatasetDraft(
        id=dataset_id, name=name, format=description.format, rows=description.rows, size=size, sha256=digest,
        description=description.dump(), labels={}, builtin=True,
    )  # fmt: skip
    store.adopt(dataset_key(dataset_id), home)
    with database.write() as c:
        made = _insert(c, project, draft)
    if not made:
        store.delete(dataset_key(dataset_id))


def _insert(c: Connection, project: str, draft: DatasetDraft) -> bool:
    """False where a service on another machine was faster; on SQLite a transaction that writes is alone anyhow."""
    if c.dialect.name == "postgresql":
        c.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    if _present(c, project, draft.name):
        return False
    datasets.insert(c, project, draft)
    return True


def _measured(home: Path) -> tuple[int, str]:
    """Bytes of the columns, and the SHA-256 over them in their order."""
    size, digest = 0, hashlib.sha256()
    for path in sorted((home / "columns").iterdir(), key=lambda path: int(path.stem)):
        values = path.read_bytes()
        size += len(values)
        digest.update(values)
    return size, digest.hexdigest()
