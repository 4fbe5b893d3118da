"""The series of a job: one value per member, name and epoch."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from sqlalchemy import Connection, select

from service.storage.sessions import upsert
from service.storage.tables import metrics


class Metric(NamedTuple):
    """A value of a series; None where it was not a finite number."""

    member: int
    epoch: int
    name: str
    value: float | None


def finite(rows: Sequence[tuple[int, int, str, float]]) -> list[Metric]:
    """The rows with None for NaN and infinities, which neither JSON nor SQLite can hold."""
    return [Metric(member, epoch, name, value if isfinite(value) else None) for member, epoch, name, value in rows]


def write(c: Connection, project: str, job: str, rows: Sequence[Metric]) -> None:
    """Store the rows; epochs that a new attempt trains again overwrite what was there."""
    unique = {(row.member, row.name, row.epoch): row for row in rows}
    if unique:
        written = [{"job_id": job, "project_id": project, **row._asdict()} for row in unique.values()]
        upsert(c, metrics, written, ("job_id", "member", "name", "epoch"))


def read(c: Connection, project: str, job: str, *, name: str | None = None, member: int | None = None) -> list[Metric]:
    """The job's values ordered by name, member and epoch; all names and members where none is given."""
    query = (
        select(metrics.c.member, metrics.c.epoch, metrics.c.name, metrics.c.value)
        .where(metrics.c.project_id == project, metrics.c.job_id == job)
        .order_by(metrics.c.name, metrics.c.member, metrics.c.epoch)
    )
    if name is not None:
        query = query.where(metrics.c.name == name)
    if member is not None:
        query = query.where(metrics.c.member == member)
    return [Metric(*row) for row in c.execute(query)]
