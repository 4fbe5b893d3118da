"""A job as the database has it: its own row, its shards and its models, with everything that no statement compares left out.

Two jobs that are equal here answer every later statement alike, but for their ids and for numbers that go on counting: versions and event
numbers count from where they are, and times are measured from now. `Shadow` in world.py checks that this is so.
"""

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Table

from service.storage.folding import PROGRESS_EVERY_S
from service.storage.progress import DONE
from service.storage.tables import jobs, models, shards

TICK_S = 84.375  # the clock's step, 1/1024 day: exact as a Julian date
LEASE_S = TICK_S / 2  # so that every lease that was not renewed since has run out by the next tick
OWNER = "*"
NAME = "job_this"  # the id of every job, as a state has it

JobRow = NamedTuple("JobRow", [(column.name, Any) for column in jobs.columns])
ShardRow = NamedTuple("ShardRow", [(column.name, Any) for column in shards.columns])
ModelRow = NamedTuple("ModelRow", [(column.name, Any) for column in models.columns])
SHAPES: dict[Table, Any] = {jobs: JobRow, shards: ShardRow, models: ModelRow}


class JobState(NamedTuple):
    """A job's rows: JSON as its text, times only as far as they matter."""

    job: Any
    shards: tuple[Any, ...]
    models: tuple[Any, ...]

    @property
    def state(self) -> str:
        """The job's own state."""
        return str(self.job.state)

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.job.state in DONE

    @property
    def open(self) -> list[Any]:
        """The shards that somebody still has to end."""
        return [shard for shard in self.shards if shard.state in ("queued", "running")]


def _seen(name: str, value: Any, now: float) -> Any:
    if value is None:
        return None
    if name == "created_at":
        return 0.0
    if isinstance(value, str) and name != "owner":
        return sys.intern(value)
    if name == "lease":
        return "expired" if value < now else "held"
    if name == "progressed_at":
        return "now" if 0 <= now - value < PROGRESS_EVERY_S else "earlier"
    if name == "owner":
        return OWNER
    if name == "version":
        return 0
    return "then" if name.endswith("_at") else value


def _stored(value: Any, now: float) -> Any:
    moments = {"expired": now - LEASE_S, "held": now + LEASE_S, "now": now, "earlier": now - TICK_S, "then": now - TICK_S}
    return moments.get(value, value) if isinstance(value, str) else value


TIMED: dict[Table, list[int]] = {
    table: [n for n, column in enumerate(table.columns) if column.name == "lease" or column.name.endswith("_at")] for table in SHAPES
}


def named(value: Any, old: str, new: str) -> Any:
    """The value with another id of the job in its text."""
    return value.replace(old, new) if isinstance(value, str) and old in value else value


def seen(table: Table, row: Iterable[Any], now: float, job: str) -> Any:
    """The row of that table, which is the job's, as a state has it."""
    shape = SHAPES[table]
    return shape._make(_seen(name, named(value, job, NAME), now) for name, value in zip(shape._fields, row, strict=True))


def stored(table: Table, row: Any, now: float, job: str) -> tuple[Any, ...]:
    """A row of that job that is seen as this one."""
    values = [named(value, NAME, job) for value in row]
    for n in TIMED[table]:
        values[n] = _stored(values[n], now)
    return tuple(values)


def aged(state: JobState) -> JobState:
    """The same rows after a tick of the clock, in which no statement ran."""
    parts = tuple(shard._replace(lease="expired") if shard.lease == "held" else shard for shard in state.shards)
    job = state.job._replace(progressed_at="earlier") if state.job.progressed_at == "now" else state.job
    return state._replace(job=job, shards=parts)
