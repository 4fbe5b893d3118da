"""Transactions: the database's clock, waiting writers, and failures that have a name."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from service.errors import DependencyUnavailable
from service.storage import sessions, workers
from service.storage.sessions import Database, now
from service.storage.tables import projects


def test_the_clock_is_in_epoch_seconds(database: Any) -> None:
    with database.read() as c:
        first = c.execute(select(now())).scalar_one()
        assert abs(first - time.time()) < 5
        time.sleep(0.02)
        assert c.execute(select(now())).scalar_one() > first  # even inside one transaction


def test_what_raises_is_not_kept(database: Any) -> None:
    with pytest.raises(RuntimeError), database.write() as c:
        c.execute(insert(projects).values(id="p", created_at=now()))
        raise RuntimeError
    with database.read() as c:
        assert c.execute(select(projects.c.id)).scalars().all() == ["default"]


def test_sqlite_writers_wait_for_each_other_and_readers_do_not(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.write() as c:
        c.exec_driver_sql("CREATE TABLE t (n INTEGER)")
        c.exec_driver_sql("INSERT INTO t VALUES (0)")

    def count() -> None:
        for _ in range(50):
            with database.write() as c:
                n = c.exec_driver_sql("SELECT n FROM t").scalar_one()
                c.exec_driver_sql("UPDATE t SET n = ?", (n + 1,))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.write() as writing, database.read() as reading:
        writing.exec_driver_sql("UPDATE t SET n = 0")
        assert reading.exec_driver_sql("SELECT n FROM t").scalar_one() == 200
    database.close()


def test_sqlite_is_durable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.read() as c:
        found = [
            c.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 10_000]
    database.close()


def test_a_locked_database_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PRAGMAS", ("busy_timeout=50",))
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.ping()
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DependencyUnavailable), database.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    assert database.transact(lambda c: c.exec_driver_sql("SELECT 1").scalar_one()) == 1
    database.close()


def test_an_absent_server_has_a_name() -> None:
    database = Database("postgresql://postgres@127.0.0.1:1/none")
    with pytest.raises(DependencyUnavailable):
        database.ping()
    database.close()


def test_json_has_no_nan() -> None:
    assert sessions.dumps({"a": [float("nan"), (float("inf"), 1.5)]}) == '{"a":[null,[null,1.5]]}'


def test_workers_come_and_go(database: Any) -> None:
    with database.write() as c:
        workers.beat(c, workers.Worker("w1", "here", 2, 0, 0))
        workers.beat(c, workers.Worker("w1", "here", 3, 0, 0))
        (found,) = workers.seen(c, 10)
        assert (found.id, found.host, found.slots) == ("w1", "here", 3)
        assert 0 < found.started_at <= found.seen_at
        workers.leave(c, "w1", 3600)
        assert workers.seen(c, 10) == []
