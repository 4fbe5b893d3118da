"""Bring a database to the schema of this release: one process at a time, with a copy of the SQLite file first."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

import migrations
from service.storage.sessions import engine

LOCK = 7_365_281_904  # of PostgreSQL's advisory locks, ours
# Batch operations copy a table and drop the old one: with foreign keys on, its children would go with it.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000", "foreign_keys=OFF")


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for our revisions, on that connection."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def head() -> str | None:
    """The revision that this release needs."""
    return ScriptDirectory.from_config(config()).get_current_head()


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Hold the file lock beside the SQLite database, if it is one."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(path: Path, revision: str) -> None:
    source, target = sqlite3.connect(path), sqlite3.connect(path.with_name(f"{path.name}.{revision}.backup"))
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()


@contextmanager
def connection(url: str) -> Iterator[Connection]:
    """A connection that no other migration runs beside; commits at the end."""
    opened = engine(url, pragmas=PRAGMAS)
    try:
        with opened.begin() as made:
            if made.dialect.name == "postgresql":
                made.execute(text("SET LOCAL lock_timeout = 0"))
                made.execute(text("SET LOCAL statement_timeout = 0"))
                made.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            yield made
    finally:
        opened.dispose()


def upgrade(url: str, revision: str = "head") -> None:
    """Run the revisions that are missing, creating the database file where there is none; several callers at once are safe."""
    address = make_url(url)
    sqlite = address.get_backend_name() == "sqlite"
    path = Path(address.database) if sqlite and address.database else None
    with _alone(path):
        with connection(url) as c:
            current = MigrationContext.configure(c).get_current_revision()
        if path is not None and current is not None and current != head():
            _copy(path, current)
        with connection(url) as c:
            command.upgrade(config(c), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Take revisions back, with what they hold."""
    with connection(url) as c:
        command.downgrade(config(c), revision)
