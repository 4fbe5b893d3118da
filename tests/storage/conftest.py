"""Real databases: a SQLite file, and a PostgreSQL database of the test's own."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.storage import jobs, shards
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.migrate import upgrade
from service.storage.sessions import Database
from tests.system.servers import Absent, Postgres

GIVEN = os.environ.get("TEMPER_TEST_POSTGRES", "")
USUAL = "postgresql://postgres@127.0.0.1:5432"
PROJECT = "default"
ENGINE = {"threads": 1}


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A PostgreSQL server: the one that is named, else the one at the usual place, else one of the tests' own."""
    if GIVEN or answers(USUAL):
        yield GIVEN or USUAL
        return
    try:
        own = Postgres()
    except Absent as reason:
        pytest.skip(f"no PostgreSQL at {USUAL}, and none of our own: {reason}")
    own.start()
    yield own.url.rpartition("/")[0]
    own.close()


def answers(server: str) -> bool:
    try:
        psycopg.connect(f"{server}/postgres", connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres(server: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database, dropped at the end."""
    name = f"temper_test_{secrets.token_hex(6)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"{server}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'temper.db'}"
    found: str = request.getfixturevalue("postgres")
    with psycopg.connect(found, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A database of this release's schema."""
    upgrade(url)
    made = Database(url)
    yield made
    made.close()


class Desk:
    """A user and a worker of the database, in one word each."""

    def __init__(self, database: Database, *, max_attempts: int = 3) -> None:
        self.database = database
        self.max_attempts = max_attempts

    def submit(self, *, members: int = 1, parts: int = 1, priority: int = 0, name: str = "digits", **more: Any) -> str:
        each = members // parts
        cut = [ShardDraft("train", tuple(range(n * each, (n + 1) * each))) for n in range(parts)]
        draft = JobDraft("train", name, {"epochs": 4}, members, 4, priority=priority, **more)
        with self.database.write() as c:
            return jobs.insert(c, PROJECT, draft, cut)

    def claim(self, owner: str = "a", lease_s: float = 30.0) -> shards.Claim | None:
        with self.database.write() as c:
            return shards.claim(c, owner, lease_s, max_attempts=self.max_attempts, engine=ENGINE)

    def grab(self, owner: str = "a", lease_s: float = 30.0) -> shards.Claim:
        found = self.claim(owner, lease_s)
        assert found is not None
        return found

    def job(self, job_id: str) -> jobs.Job:
        with self.database.read() as c:
            return jobs.get(c, PROJECT, job_id)

    def reconcile(self) -> int:
        count = 0
        while self.database.transact(lambda c: shards.reconcile(c, self.max_attempts)):
            count += 1
        return count


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)
