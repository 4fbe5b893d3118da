"""Engines and transactions on SQLite and PostgreSQL, and the database's own clock."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import sleep
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, Double, Engine, Row, Table, create_engine, event, exc, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from service.errors import DependencyUnavailable, StorageFull, TemperError

T = TypeVar("T")
AnyRow: TypeAlias = Row[*tuple[Any, ...]]
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "journal_size_limit=67108864", "foreign_keys=ON")
POSTGRES_OPTIONS = "-c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000"
DISK_FULL = "53100"  # SQLSTATE
TRANSIENT = frozenset({"40001", "40P01"})  # serialization failure, deadlock


class Now(FunctionElement[float]):
    """Seconds since the epoch by the database's clock, which all leases are measured with."""

    type = Double()
    inherit_cache = True


def now() -> Now:
    """The SQL expression of the present moment, in epoch seconds."""
    return Now()


@compiles(Now, "sqlite")
def _now_sqlite(_element: Now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_postgresql(_element: Now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def dumps(value: Any) -> str:
    """The value as JSON text, NaN and infinities as null, which is all that JSON has for them."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def engine(url: str, begin: str = "BEGIN IMMEDIATE", pragmas: Sequence[str] | None = None, pool_size: int = 5) -> Engine:
    """An engine with our rules: on SQLite explicit BEGINs (a deferred one cannot wait for a lock), on PostgreSQL time limits."""
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        return create_engine(
            address.set(drivername="postgresql+psycopg"),
            json_serializer=dumps,
            pool_pre_ping=True,
            pool_size=pool_size,
            pool_timeout=10,
            connect_args={"options": POSTGRES_OPTIONS, "connect_timeout": 5},
        )
    made = create_engine(address, json_serializer=dumps, pool_size=pool_size, pool_timeout=10, max_overflow=20)

    @event.listens_for(made, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # sqlite3 must not begin transactions by itself
        cursor = connection.cursor()
        for pragma in PRAGMAS if pragmas is None else pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(made, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return made


def upsert(c: Connection, table: Table, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Insert the rows; where `keys` are already taken, the other columns are overwritten."""
    statement: postgresql.Insert | sqlite.Insert
    statement = postgresql.insert(table) if c.dialect.name == "postgresql" else sqlite.insert(table)
    fresh = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    statement = statement.on_conflict_do_update(index_elements=list(keys), set_=fresh)
    if len(rows) == 1:
        c.execute(statement.values(rows[0]))  # whose values may be SQL, such as `now()`
    else:
        c.execute(statement, list(rows))


def insert_new(c: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert the row unless its key is taken; of two at once the second waits for the first."""
    fresh = postgresql.insert(table) if c.dialect.name == "postgresql" else sqlite.insert(table)
    c.execute(fresh.values(row).on_conflict_do_nothing())


def _translated(error: exc.SQLAlchemyError) -> TemperError | None:
    """What a caller may be told of a database's failure; None for a fault of ours."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state == DISK_FULL or "disk is full" in str(error):
        return StorageFull("no space is left for the database")
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
        return DependencyUnavailable("the database does not answer")
    if isinstance(error, exc.DBAPIError) and (error.connection_invalidated or state in TRANSIENT):
        return DependencyUnavailable("the database does not answer")
    return None


class Database:
    """The one database of a process: `write` and `read` give a connection inside a transaction."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url = url
        self._writing = engine(url, pool_size=pool_size)
        self.dialect = self._writing.dialect.name
        if self.dialect == "sqlite":
            self._reading = engine(url, "BEGIN", pool_size=pool_size)
        else:  # every statement has a snapshot of its own there anyway, and a transaction would cost two round trips
            self._reading = self._writing.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def _transaction(self, source: Engine) -> Iterator[Connection]:
        try:
            with source.begin() as connection:
                yield connection
        except exc.SQLAlchemyError as error:
            known = _translated(error)
            if known is None:
                raise
            raise known from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; it commits at the end, and raises DependencyUnavailable or StorageFull."""
        with self._transaction(self._writing) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite one snapshot that waits for no writer."""
        with self._transaction(self._reading) as connection:
            yield connection

    def transact(self, unit: Callable[[Connection], T], *, attempts: int = 3) -> T:
        """The unit's value from a write transaction, tried again when the database was lost: for idempotent units only."""
        for attempt in range(1, attempts):
            try:
                with self.write() as connection:
                    return unit(connection)
            except DependencyUnavailable:
                sleep(0.05 * 2**attempt)
        with self.write() as connection:
            return unit(connection)

    def ping(self) -> None:
        """Raise DependencyUnavailable unless the database answers."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Give back all connections."""
        self._writing.dispose()
        self._reading.dispose()
