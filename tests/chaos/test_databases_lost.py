"""Faults 25 to 29: a database that restarts, is away longer than a lease, has no connection left, or is locked."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psycopg
import pytest
from sqlalchemy import Connection, text

from tests.chaos.field import LEASE_S, QUICK, Field
from tests.patience import until

ON_SEPARATE = pytest.mark.parametrize("stack", ["separate"], indirect=True, scope="session")
ON_EMBEDDED = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")


def unavailable(answer: httpx2.Response) -> bool:
    return (answer.status_code, answer.json().get("type")) == (503, "/problems/dependency-unavailable") and "retry-after" in answer.headers


@ON_SEPARATE
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["25-fast", "25-immediate"])
def test_25_postgresql_restarts(field: Field, how: int) -> None:
    job = field.begun(field.spec(f"restarted-{how}"))
    field.separate.postgres.end(how)
    assert unavailable(field.http.get("/api/v1/jobs"))
    field.separate.postgres.start()
    assert field.http.get("/api/v1/jobs").status_code == 200
    done = field.ends(job)
    assert done["attempt"] == 1
    field.same(done)


@ON_SEPARATE
def test_26_postgresql_is_away_longer_than_a_lease(field: Field) -> None:
    job = field.begun(field.spec("away"))
    field.separate.postgres.end(signal.SIGQUIT)
    time.sleep(2 * LEASE_S)
    assert not field.pids("trainer")  # who cannot renew its lease stops
    field.separate.postgres.start()
    field.same(field.ends(job))


@ON_SEPARATE
def test_27_postgresql_has_no_connection_left(field: Field) -> None:
    held: list[psycopg.Connection] = []
    others = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> ALL(%s)"
    with psycopg.connect(field.separate.postgres.url, autocommit=True) as own:
        try:
            # Who finds a free place first has it: until it is always us.
            while pids := own.execute(others, [[own.info.backend_pid, *(connection.info.backend_pid for connection in held)]]).fetchall():
                for (pid,) in pids:
                    own.execute("SELECT pg_terminate_backend(%s)", [pid])
                take_all(field.separate.postgres.url, held)
            answers = [field.http.get("/api/v1/jobs") for _ in range(3)]
        finally:
            for connection in held:
                connection.close()
    assert all(map(unavailable, answers)), answers
    assert field.desk.run({**QUICK, "name": "connected"})["state"] == "succeeded"


def take_all(url: str, held: list[psycopg.Connection]) -> None:
    """Connect until no place is left."""
    try:
        while True:
            held.append(psycopg.connect(url))
    except psycopg.OperationalError:
        return


@ON_SEPARATE
def test_28_a_deadlock_is_tried_again(field: Field) -> None:
    """Two units lock two rows in opposite order; PostgreSQL ends one, which is done again."""
    for name in ("left", "right"):
        field.desk.run({**QUICK, "name": name})
    gate, tries = threading.Barrier(2), list[str]()

    def unit(first: str, second: str) -> Callable[[Connection], None]:
        def lock(c: Connection) -> None:
            tries.append(first)
            c.execute(text("UPDATE jobs SET priority = priority + 1 WHERE name = :name"), {"name": first})
            if len(tries) <= 2:
                gate.wait(10)
            c.execute(text("UPDATE jobs SET priority = priority + 1 WHERE name = :name"), {"name": second})

        return lock

    with ThreadPoolExecutor(2) as callers:
        for future in [callers.submit(field.database.transact, unit(*names)) for names in (("left", "right"), ("right", "left"))]:
            future.result()
    assert len(tries) == 3
    assert [row[0] for row in field.rows("SELECT priority FROM jobs WHERE name IN ('left', 'right')")] == [2, 2]


@ON_SEPARATE
def test_28_a_worker_whose_sessions_are_ended_goes_on(field: Field) -> None:
    job = field.begun(field.spec("interrupted"))
    with psycopg.connect(field.separate.postgres.url, autocommit=True) as own:
        for _ in range(5):
            own.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            time.sleep(0.2)
    field.same(field.ends(job))


@ON_EMBEDDED
def test_29_sqlite_is_locked_from_outside(field: Field) -> None:
    with ThreadPoolExecutor(1) as callers:
        with field.locked("jobs"):
            began = time.monotonic()
            waiting = callers.submit(field.http.post, "/api/v1/jobs", json={**QUICK, "name": "waited"})
            time.sleep(3)
            assert not waiting.done()
            assert field.http.get("/api/v1/jobs").status_code == 200  # who reads waits for nobody
        answer = waiting.result()
    assert answer.status_code == 202
    assert time.monotonic() - began < 20
    assert field.ends(answer.json())["state"] == "succeeded"
    with field.locked("jobs"):
        answer = field.http.post("/api/v1/jobs", json={**QUICK, "name": "refused"}, timeout=40)
    assert unavailable(answer)
    assert field.count("refused") == 0
    until(lambda: field.http.get("/readyz").status_code == 200)
