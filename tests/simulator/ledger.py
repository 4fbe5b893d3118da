"""The real SQL on a SQLite database in memory, whose clock is ours."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, event
from sqlalchemy.exc import IntegrityError

from service.errors import Conflict
from service.storage import jobs
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.sessions import engine
from service.storage.shards import Ghost
from service.storage.tables import events, metadata, model_names, models, projects, shards
from service.storage.tables import jobs as jobs_table
from tests.simulator.calls import PROJECT, Call, perform, refusal
from tests.simulator.checker import Violation
from tests.simulator.guards import Guard
from tests.simulator.rows import NAME, SHAPES, JobState, named, seen, stored

JOBS, TRAINING = 2, 3  # jobs, and the shards of each that learn
BASE = 1000  # the number of a loaded job's newest event
EPOCH, TICKS_A_DAY = 2440587.5, 1024.0
PRAGMAS = ("journal_mode=MEMORY", "synchronous=OFF", "foreign_keys=ON")
IN_MEMORY = "sqlite:///file::memory:?uri=true"  # to SQLAlchemy a file, so that the engine is the service's own


class Told(NamedTuple):
    """An event that a call appended: its number within the job, its kind and its data."""

    number: int
    kind: str
    data: dict[str, Any]


class Outcome(NamedTuple):
    """What a call did: its answer, both jobs afterwards, their new events, and how far their versions rose."""

    answer: Any
    states: tuple[JobState, ...]
    told: tuple[list[Told], ...]
    risen: tuple[int, ...]


def _insert(table: Any) -> str:
    names = [column.name for column in table.columns]
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _select(table: Any, whose: str, order: str) -> str:
    return f"SELECT {', '.join(column.name for column in table.columns)} FROM {table.name} WHERE {whose} = ? ORDER BY {order}"


READS = [
    (jobs_table, _select(jobs_table, "id", "id")), (shards, _select(shards, "job_id", "number")), (models, _select(models, "job_id", "id"))
]  # fmt: skip
INSERTS = {table: _insert(table) for table in (*SHAPES, events, model_names)}
DELETES = [f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables) if table.name != projects.name]


class Ledger:
    """The database of two jobs. With a guard it runs without that guard: the statements are changed as they are executed."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.ticks = 0
        self.guard = guard
        self.running = ""
        self._rows: dict[Any, Any] = {}
        self._stores: dict[Any, tuple[Any, ...]] = {}
        self.engine = engine(IN_MEMORY, pragmas=PRAGMAS, pool_size=1)
        self._connection = self.engine.connect()
        raw = self._connection.connection.dbapi_connection
        assert raw is not None
        raw.create_function("julianday", 1, self._julianday)
        self._cursor = raw.cursor()
        metadata.create_all(self._connection)
        self._connection.execute(projects.insert().values(id=PROJECT, created_at=0.0))
        self._connection.commit()
        self.ids = self._submit()
        if guard is not None:
            event.listen(self.engine, "before_cursor_execute", self._without_guard, retval=True)

    @property
    def now(self) -> float:
        """The moment that SQL's `now()` has, in seconds."""
        return self.ticks / TICKS_A_DAY * 86400.0

    def _julianday(self, _when: str) -> float:
        return EPOCH + self.ticks / TICKS_A_DAY

    def _without_guard(self, _c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> tuple[str, Any]:
        assert self.guard is not None
        return self.guard.removed(self.running, statement), parameters

    def _submit(self) -> tuple[str, ...]:
        draft = JobDraft("train", "net", {"epochs": TRAINING}, TRAINING, TRAINING)
        parts = [ShardDraft("train", (n,)) for n in range(TRAINING)]
        with self._connection.begin():
            return tuple(jobs.insert(self._connection, PROJECT, draft, parts) for _ in range(JOBS))

    def read(self) -> tuple[JobState, ...]:
        """Both jobs as they stand."""
        return tuple(self._job(job, self.now) for job in self.ids)

    def _job(self, job: str, now: float) -> JobState:
        run = self._cursor.execute
        rows = [tuple(self._seen(table, row, now, job) for row in run(text, (job,)).fetchall()) for table, text in READS]
        return JobState(rows[0][0], rows[1], rows[2])

    def _seen(self, table: Table, row: Any, now: float, job: str) -> Any:
        key = table, row, now
        if (found := self._rows.get(key)) is None:
            found = self._rows[key] = seen(table, row, now, job)
        return found

    def _stored(self, table: Table, row: Any, now: float, job: str) -> tuple[Any, ...]:
        key = job, row, now
        if (found := self._stores.get(key)) is None:
            found = self._stores[key] = stored(table, row, now, job)
            self._rows[table, found, now] = row
        return found

    def load(self, states: Sequence[JobState], number: int = BASE) -> None:
        """Make the database hold these jobs, each with one event of that number, and nothing else."""
        run, now = self._cursor, self.now
        run.execute("BEGIN")
        self._clear()
        for job, (head, parts, made) in zip(self.ids, states, strict=True):
            run.execute(INSERTS[jobs_table], self._stored(jobs_table, head, now, job))
            run.executemany(INSERTS[shards], [self._stored(shards, part, now, job) for part in parts])
            run.executemany(INSERTS[models], [self._stored(models, model, now, job) for model in made])
            run.executemany(INSERTS[model_names], [(PROJECT, named(model.name, NAME, job), model.version) for model in made[:1]])
            run.execute(INSERTS[events], (job, number, PROJECT, "state", "{}", 0.0))
        run.execute("COMMIT")

    def clear(self) -> None:
        """Make the database hold no jobs."""
        self._cursor.execute("BEGIN")
        self._clear()
        self._cursor.execute("COMMIT")

    def _clear(self) -> None:
        for text in DELETES:
            self._cursor.execute(text)

    def names(self) -> list[tuple[str, str]]:
        """The id and the name of every job."""
        return self._cursor.execute("SELECT id, name FROM jobs").fetchall()

    def events(self, job: int, after: int = 0) -> list[Told]:
        """The job's events with a higher number."""
        text = "SELECT number, kind, data FROM events WHERE job_id = ? AND number > ? ORDER BY number"
        return [Told(number, kind, json.loads(data)) for number, kind, data in self._cursor.execute(text, (self.ids[job], after))]

    def versions(self) -> tuple[int, ...]:
        """Both jobs' versions."""
        return tuple(row[0] for row in self._cursor.execute("SELECT version FROM jobs ORDER BY id"))

    @contextmanager
    def transaction(self, call: str) -> Iterator[Connection]:
        """A connection inside a transaction of the call of that name."""
        self.running = call
        if self.guard is not None:
            self.guard.begin()
        with self._connection.begin():
            yield self._connection

    def perform(self, job: int, call: Call) -> Any:
        """The call's answer, committed; a refusal is rolled back."""
        try:
            with self.transaction(call.name) as c:
                return perform(c, self.ids[job], call)
        except (Ghost, Conflict) as error:
            return refusal(error)
        except IntegrityError as error:
            raise Violation("P2", f"{call} met a constraint of the database: {error.orig}") from error

    def step(self, states: Sequence[JobState], job: int, call: Call) -> Outcome:
        """What the call does to these jobs."""
        self.load(states)
        answer = self.perform(job, call)
        told = tuple(self.events(number, BASE) for number in range(JOBS))
        return Outcome(answer, self.read(), told, self.versions())

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()
        self.engine.dispose()
