"""A job's history over HTTP: streamed, resumed, shared by many, dropped when nobody reads."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.storage import events, shards
from service.storage.metrics import Metric
from service.storage.sessions import Database
from tests.routes.conftest import API, served
from tests.routes.test_jobs import submit


class Line(dict[str, Any]):
    """One event off the wire."""


def read(answer: httpx2.Response) -> Iterator[Line]:
    """The events of a stream."""
    found = Line()
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            found[name] = value
        elif not line and "data" in found:
            found |= {"id": int(found["id"]), "data": json.loads(found["data"])}
            yield found
            found = Line()


@pytest.fixture
def database(api: API) -> Iterator[Database]:
    made = Database(f"sqlite:///{api.data / 'temper.db'}")
    yield made
    made.close()


def run(database: Database, job: str) -> shards.Claim:
    """Claim the job's shard, as a worker would."""
    with database.write() as c:
        while (claim := shards.claim(c, "w", 60, max_attempts=3, engine={})) is not None:
            if claim.job_id == job:
                return claim
            shards.cancel(c, claim)
    raise AssertionError("the job was not there to be claimed")


def test_events_come_as_they_happen_and_end_with_the_job(http: httpx2.Client, database: Database) -> None:
    job = submit(http, name="streamed")["id"]
    claim = run(database, job)
    seen: list[Line] = []
    with http.stream("GET", f"/api/v1/jobs/{job}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        for event in read(answer):
            seen.append(event)
            if event["data"].get("state") == "running":
                with database.write() as c:
                    shards.record(c, claim, values=[Metric(0, 1, "train.loss", 0.5)], lines=[("info", "a line\nof two\r")])
            if event["event"] == "log":
                http.post(f"/api/v1/jobs/{job}/cancel")
                with database.write() as c:
                    shards.cancel(c, claim)
    assert [event["id"] for event in seen] == list(range(1, len(seen) + 1))
    kinds = [event["event"] for event in seen]
    assert kinds[-1] == "end"
    assert seen[-1]["data"]["state"] == "cancelled"
    (told,) = [event["data"] for event in seen if event["event"] == "metrics"]
    assert (told["name"], told["member"], told["epoch"], told["value"]) == (["train.loss"], [0], [1], [0.5])
    assert [event["data"]["message"] for event in seen if event["event"] == "log"] == ["a line\nof two\r"]
    assert [event["data"]["state"] for event in seen if event["event"] == "state"] == ["queued", "running", "cancelling", "cancelled"]
    assert all(event["data"]["at"].endswith("Z") for event in seen)


def test_a_stream_goes_on_where_it_broke_off(http: httpx2.Client) -> None:
    job = submit(http, name="resumed")["id"]
    http.post(f"/api/v1/jobs/{job}/cancel")
    url = f"/api/v1/jobs/{job}/events"
    with http.stream("GET", url) as answer:
        whole = list(read(answer))
    assert [event["event"] for event in whole] == ["state", "state", "end"]
    for last in range(1, len(whole)):
        # The header of a reconnecting EventSource goes before the query that its URL still has.
        with http.stream("GET", url, params={"after": 0}, headers={"Last-Event-ID": str(last)}) as answer:
            assert list(read(answer)) == whole[last:]
        with http.stream("GET", url, params={"after": last}) as answer:
            assert list(read(answer)) == whole[last:]
    assert http.get(url, headers={"Last-Event-ID": str(len(whole))}).status_code == 204
    assert http.get(url, params={"after": 99}).status_code == 204


@pytest.mark.parametrize(
    ("headers", "query", "status", "slug"),
    [
        ({"Last-Event-ID": "x"}, {}, 400, "bad-request"),
        ({"Last-Event-ID": "9" * 30}, {}, 400, "bad-request"),
        ({}, {"after": "-1"}, 422, "validation-error"),
        ({"Accept": "application/json"}, {}, 406, "not-acceptable"),
    ],
)
def test_what_cannot_be_streamed(http: httpx2.Client, headers: dict[str, str], query: dict[str, str], status: int, slug: str) -> None:
    job = submit(http)["id"]
    answer = http.get(f"/api/v1/jobs/{job}/events", headers=headers, params=query)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}")
    http.post(f"/api/v1/jobs/{job}/cancel")


def test_no_job_no_stream(http: httpx2.Client) -> None:
    assert http.get("/api/v1/jobs/job_00000000000000000000000000/events").status_code == 404


def test_a_deleted_job_ends_its_streams(http: httpx2.Client, database: Database) -> None:
    job = submit(http)["id"]
    with http.stream("GET", f"/api/v1/jobs/{job}/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        with database.write() as c:
            c.exec_driver_sql("DELETE FROM jobs WHERE id = ?", (job,))
        list(lines)


def test_a_hundred_streams_of_one_job_see_the_same(http: httpx2.Client, database: Database, api: API) -> None:
    job = submit(http, name="crowd")["id"]
    claim = run(database, job)
    found: list[list[int]] = []

    def follow() -> None:
        with httpx2.stream("GET", f"{api.url}/api/v1/jobs/{job}/events", timeout=60) as answer:
            found.append([event["id"] for event in read(answer)])

    threads = [threading.Thread(target=follow) for _ in range(100)]
    for thread in threads:
        thread.start()
    for i in range(400):  # more than are kept in memory
        with database.write() as c:
            shards.record(c, claim, lines=[("info", f"line {i}")])
    with database.write() as c:
        shards.fail(c, claim, {"title": "Broken"}, retryable=False, max_attempts=3)
    for thread in threads:
        thread.join(60)
    with database.read() as c:
        wanted = list(range(1, events.last(c, "default", job) + 1))
    assert len(wanted) > 400
    assert found == [wanted] * 100


def test_a_crowd_that_catches_up_leaves_room_for_others(http: httpx2.Client, database: Database, api: API) -> None:
    """A history is read once for all who come to the same place, and sent in pieces, between which others are answered."""
    job = submit(http, name="history")["id"]
    claim = run(database, job)
    for i in range(150):
        with database.write() as c:
            shards.record(c, claim, lines=[("info", f"{i} " + "x" * 8000)])

    async def crowd(count: int) -> tuple[list[bytes], list[float]]:
        async def follow() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(f"GET /api/v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            body = await reader.read(-1)
            writer.close()
            return body

        followers = [asyncio.create_task(follow()) for _ in range(count)]
        waits = []
        async with httpx2.AsyncClient(base_url=api.url, timeout=60) as other:
            for _ in range(10):
                began = time.perf_counter()
                (await other.get(f"/api/v1/jobs/{job}")).raise_for_status()
                waits.append(time.perf_counter() - began)
            with database.write() as c:
                shards.fail(c, claim, {"title": "Broken"}, retryable=False, max_attempts=3)
        return await asyncio.gather(*followers), waits

    bodies, waits = asyncio.run(crowd(300))
    assert all(body.count(b"\nid: ") == bodies[0].count(b"\nid: ") > 150 for body in bodies)
    assert all(b"event: end" in body for body in bodies)
    assert sorted(waits)[5] < 3.0
    assert max(waits) < 30.0


def test_who_reads_nothing_holds_no_memory(http: httpx2.Client, database: Database, api: API) -> None:
    """The events of a slow reader wait in the database, not in the process."""
    job = submit(http, name="slow")["id"]
    claim = run(database, job)
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"GET /api/v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(0.3)
        before = resident(api.process.pid)
        for _ in range(300):
            with database.write() as c:
                shards.record(c, claim, lines=[("info", "x" * 8000)] * 10)
        time.sleep(0.5)
        assert resident(api.process.pid) - before < 60 * 2**20  # of 24 MB of text, kept whole for one job
    http.post(f"/api/v1/jobs/{job}/cancel")
    with database.write() as c:
        shards.cancel(c, claim)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_streams_and_long_polls_end_when_the_server_does(tmp_path: Path) -> None:
    with served(tmp_path) as api, httpx2.Client(base_url=api.url, timeout=60) as http:
        job = submit(http)["id"]
        polled: list[int] = []

        def wait() -> None:
            polled.append(httpx2.get(f"{api.url}/api/v1/jobs/{job}?wait=60&since=9", timeout=60).status_code)

        poll = threading.Thread(target=wait)
        poll.start()
        with http.stream("GET", f"/api/v1/jobs/{job}/events") as answer:
            stream = read(answer)
            assert next(stream)["event"] == "state"
            time.sleep(0.3)
            began = time.monotonic()
            api.process.send_signal(signal.SIGTERM)
            assert list(stream) == []
        poll.join(10)
        assert polled == [200]
        assert api.process.wait(10) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 20
