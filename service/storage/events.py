"""The history of a job: numbered events, only ever appended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, cast, delete, func, insert, select

from service.storage.sessions import now
from service.storage.tables import events, jobs

KEPT_PROGRESS = 1000
_THIN_EVERY = 200


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a job: its number within the job from 1, kind, data and epoch seconds."""

    number: int
    kind: str
    data: dict[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class Line:
    """An event whose data is the text of a JSON object, as the database has it."""

    number: int
    kind: str
    data: str
    at: float


def append(c: Connection, project: str, job: str, kind: str, data: dict[str, Any]) -> int:
    """Write the job's next event and return its number; the caller holds the job's row lock."""
    last = c.execute(select(func.coalesce(func.max(events.c.number), 0)).where(events.c.job_id == job)).scalar_one()
    number = int(last) + 1
    c.execute(insert(events).values(job_id=job, number=number, project_id=project, kind=kind, data=data, at=now()))
    if kind == "progress" and number % _THIN_EVERY == 0:
        _thin(c, job)
    return number


def _thin(c: Connection, job: str) -> None:
    """Forget all but the newest progress, so that a job of weeks stays readable."""
    mine = (events.c.job_id == job, events.c.kind == "progress")
    oldest = select(events.c.number).where(*mine).order_by(events.c.number.desc()).offset(KEPT_PROGRESS - 1).limit(1)
    c.execute(delete(events).where(*mine, events.c.number < oldest.scalar_subquery()))


def after(c: Connection, project: str, job: str, number: int, *, limit: int = 500) -> list[Event]:
    """The job's events with a higher number, in order; none for another project's job."""
    query = (
        select(events.c.number, events.c.kind, events.c.data, events.c.at)
        .where(events.c.project_id == project, events.c.job_id == job, events.c.number > number)
        .order_by(events.c.number)
        .limit(limit)
    )
    return [Event(*row) for row in c.execute(query)]


def lines(c: Connection, project: str, job: str, number: int, *, limit: int = 100) -> list[Line]:
    """The same for whoever only passes the data on: it is neither read nor written as JSON again."""
    query = (
        select(events.c.number, events.c.kind, cast(events.c.data, Text), events.c.at)
        .where(events.c.project_id == project, events.c.job_id == job, events.c.number > number)
        .order_by(events.c.number)
        .limit(limit)
    )
    return [Line(*row) for row in c.execute(query)]


def last(c: Connection, project: str, job: str) -> int:
    """The number of the job's newest event; 0 for another project's job."""
    query = select(func.coalesce(func.max(events.c.number), 0)).where(events.c.project_id == project, events.c.job_id == job)
    return int(c.execute(query).scalar_one())


def newest(c: Connection, wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Version and newest event's number of each of these jobs; those deleted meanwhile are not in it."""
    number = select(func.max(events.c.number)).where(events.c.job_id == jobs.c.id).scalar_subquery()
    query = select(jobs.c.id, jobs.c.version, number).where(jobs.c.id.in_(wanted))
    return {row[0]: (int(row[1]), int(row[2] or 0)) for row in c.execute(query)}
