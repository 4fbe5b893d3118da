"""Datasets: what was uploaded, found by id or by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy import delete as delete_from
from sqlalchemy import insert as insert_into

from service.errors import Conflict, NotFound
from service.storage import pages
from service.storage.ids import valid
from service.storage.pages import Page
from service.storage.progress import DONE
from service.storage.sessions import now
from service.storage.tables import datasets, jobs
from service.values import NAME


@dataclass(frozen=True, slots=True)
class DatasetDraft:
    """A dataset whose files are stored: size in bytes, SHA-256 of the source, the description as JSON."""

    id: str
    name: str
    format: str
    rows: int
    size: int
    sha256: str
    description: dict[str, Any]
    labels: dict[str, str]
    builtin: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """A stored dataset."""

    id: str
    project_id: str
    name: str
    format: str
    rows: int
    size: int
    sha256: str
    description: dict[str, Any]
    builtin: bool
    labels: dict[str, str]
    created_at: float


def insert(c: Connection, project: str, draft: DatasetDraft) -> Dataset:
    """The dataset, now visible."""
    values = {name: getattr(draft, name) for name in DatasetDraft.__dataclass_fields__}
    row = c.execute(insert_into(datasets).values(project_id=project, created_at=now(), **values).returning(datasets)).one()
    return Dataset(**row._mapping)


def get(c: Connection, project: str, ref: str) -> Dataset:
    """The dataset of that id, or the newest of that name; raises NotFound."""
    query = select(datasets).where(datasets.c.project_id == project).order_by(datasets.c.id.desc()).limit(1)
    if valid("ds", ref):
        query = query.where(datasets.c.id == ref)
    elif NAME.fullmatch(ref):
        query = query.where(datasets.c.name == ref)
    else:
        raise NotFound("there is no such dataset")
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound("there is no such dataset")
    return Dataset(**row._mapping)


def page(
    c: Connection, project: str, *, limit: int, cursor: str | None, name: str | None = None, labels: Sequence[tuple[str, str]] = ()
) -> Page[Dataset]:
    """Datasets, newest first; raises BadCursor."""
    where = [pages.labelled(datasets, labels)] + ([] if name is None else [datasets.c.name == name])
    rows, following = pages.fetch(c, datasets, project, limit=limit, cursor=cursor, where=where)
    return Page(tuple(Dataset(**row._mapping) for row in rows), following)


def held_bytes(c: Connection, project: str) -> int:
    """Bytes that the project's uploads had."""
    query = select(func.coalesce(func.sum(datasets.c.size), 0)).where(datasets.c.project_id == project, datasets.c.builtin.is_(False))
    return int(c.execute(query).scalar_one())


def delete(c: Connection, project: str, ref: str) -> Dataset:
    """Remove the dataset and return what it was; raises NotFound, Conflict dataset-builtin or dataset-in-use."""
    dataset = get(c, project, ref)
    if dataset.builtin:
        raise Conflict("dataset-builtin", "built-in datasets stay")
    c.execute(select(datasets.c.id).where(datasets.c.id == dataset.id).with_for_update())  # no job begins to use it meanwhile
    using = select(jobs.c.id).where(jobs.c.dataset_id == dataset.id, jobs.c.state.not_in(DONE)).limit(1)
    if (job := c.execute(using).scalar_one_or_none()) is not None:
        raise Conflict("dataset-in-use", f"{job} uses this dataset")
    c.execute(delete_from(datasets).where(datasets.c.id == dataset.id))
    return dataset
