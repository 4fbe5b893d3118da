"""What a job's trainers said, line by line."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from service.storage.sessions import now
from service.storage.tables import logs

LONGEST = 8192  # characters of a message


@dataclass(frozen=True, slots=True)
class Line:
    """A logged message: its id, the shard it is from, epoch seconds, level and text."""

    id: int
    shard: int
    at: float
    level: str
    message: str


def clean(message: str) -> str:
    """The message as text that every database takes: bounded, without NUL and lone surrogates."""
    return message[:LONGEST].replace("\0", "").encode("utf-8", "replace").decode()


def write(c: Connection, project: str, job: str, shard: int, lines: Sequence[tuple[str, str]]) -> None:
    """Append (level, message) pairs."""
    common = {"job_id": job, "project_id": project, "shard": shard, "at": now()}
    for level, message in lines:
        c.execute(insert(logs).values(level=level, message=clean(message), **common))


def read(c: Connection, project: str, job: str, *, after: int = 0, limit: int = 10_000) -> list[Line]:
    """The job's lines with an id above `after`, oldest first."""
    query = (
        select(logs.c.id, logs.c.shard, logs.c.at, logs.c.level, logs.c.message)
        .where(logs.c.project_id == project, logs.c.job_id == job, logs.c.id > after)
        .order_by(logs.c.id)
        .limit(limit)
    )
    return [Line(*row) for row in c.execute(query)]


def tail(c: Connection, job: str, count: int = 20) -> list[str]:
    """The job's last messages, oldest first."""
    query = select(logs.c.message).where(logs.c.job_id == job).order_by(logs.c.id.desc()).limit(count)
    return [str(message) for message in reversed(c.execute(query).scalars().all())]
