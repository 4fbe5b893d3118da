"""How quickly a job's life answers: python -m benchmarks.life [--stack embedded|separate]

Submit, submit with the broker frozen, cancel, detection of a lost worker, a claim among 10,000 waiting, status beside two
trainings and beside 1,000 streams, and the API's memory over streams and lists.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
import psutil

from service.storage import jobs, migrate, shards
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.sessions import Database
from temper.embedded.launch import Launch
from tests.system.separate import Separate, Stack, roots
from tests.system.servers import Postgres

SMALL = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 1}
LONG = {**SMALL, "epochs": 100_000, "early_stopping": None, "ensemble": {"size": 1}}
QUEUED = 10_000
STREAMS = 1_000
RATE = 200
MIB = 2**20


def line(name: str, values: list[float], most: float, *, share: float = 99, unit: str = "ms") -> bool:
    """Print a percentile beside its bound."""
    found, middle = float(np.percentile(values, share)), float(np.median(values))
    holds = found <= most
    told = f"median {middle:8.1f}, p{share:g} {found:8.1f} {unit}, {len(values)} times"
    print(f"{name:52s} {told}   at most {most:g}   {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def submit(http: httpx2.Client) -> bool:
    """POST to 202."""
    waits = [timed(lambda: http.post("/api/v1/jobs", json=SMALL).raise_for_status()) for _ in range(300)]
    drain(http)
    return line("submit", waits, 50)


def frozen(http: httpx2.Client, stack: Stack) -> bool:
    """POST while the broker hangs."""
    brokers = [p for p in processes(stack) if p.name() in ("redis-server", "valkey-server")]
    for broker in brokers:
        broker.suspend()
    try:
        waits = [timed(lambda: http.post("/api/v1/jobs", json=SMALL).raise_for_status()) for _ in range(30)]
    finally:
        for broker in brokers:
            broker.resume()
    drain(http)
    return line(f"submit with {len(brokers)} broker frozen", waits, 1000)


def cancel(http: httpx2.Client) -> bool:
    """POST cancel to `cancelled`, of a running job."""
    waits = []
    for _ in range(100):
        job = http.post("/api/v1/jobs", json=LONG).json()
        job = await_state(http, job, lambda job: job["state"] == "running" and job["progress"]["epoch"] > 0)
        began = time.perf_counter()
        http.post(f"/api/v1/jobs/{job['id']}/cancel").raise_for_status()
        await_state(http, job, lambda job: job["done"])
        waits.append(time.perf_counter() - began)
    return line("cancel of a running job", waits, 3, unit="s")


def detection(http: httpx2.Client, stack: Stack, lease_s: float = 30.0) -> bool:
    """From kill -9 of the worker to the next attempt."""
    waits = []
    for _ in range(3):
        job = await_state(http, http.post("/api/v1/jobs", json=LONG).json(), lambda job: job["progress"]["epoch"] > 0)
        began = time.perf_counter()
        for worker in (p for p in processes(stack) if "workers.app" in " ".join(p.cmdline())):
            os.kill(worker.pid, signal.SIGKILL)
        if isinstance(stack, Separate):
            time.sleep(0.5)
            stack.tend()
        attempt = job["attempt"]
        await_state(http, job, lambda job, before=attempt: job["attempt"] > before, within_s=90)
        waits.append(time.perf_counter() - began)
        http.post(f"/api/v1/jobs/{job['id']}/cancel")
        await_state(http, job, lambda job: job["done"])
    return line("detection of a lost worker", waits, lease_s + 5, share=100, unit="s")


def claims() -> bool:
    """A claim among many that wait, on both databases."""
    held = []
    for name, url in databases():
        migrate.upgrade(url)
        database = Database(url)
        for _ in range(QUEUED // 100):
            with database.write() as c:
                for _ in range(100):
                    jobs.insert(c, "default", JobDraft("train", "n", {"epochs": 1}, 1, 1), [ShardDraft("train", (0,))])

        def claim(database: Database = database) -> None:
            with database.write() as c:
                shards.claim(c, "w", 60, max_attempts=3, engine={})

        held.append(line(f"claim with {QUEUED} queued, {name}", [timed(claim) for _ in range(500)], 50))
        database.close()
    return all(held)


def databases() -> Iterator[tuple[str, str]]:
    """An empty database of each kind."""
    with TemporaryDirectory() as folder:
        yield "SQLite", f"sqlite:///{Path(folder) / 'temper.db'}"
    server = Postgres()
    server.start()
    yield "PostgreSQL", server.url
    server.close()


def status(http: httpx2.Client, stack: Stack) -> bool:
    """GET of a job at a steady rate, beside two trainings; then beside 1,000 streams as well, with the API's memory."""
    long = [http.post("/api/v1/jobs", json=LONG).json() for _ in range(2)]
    for job in long:
        await_state(http, job, lambda job: job["progress"]["epoch"] > 0)
    api = next(p for p in processes(stack) if "service.app" in " ".join(p.cmdline()))
    url, path = str(http.base_url), f"/api/v1/jobs/{long[0]['id']}"
    held = [line(f"status at {RATE}/s beside two trainings", asyncio.run(steady(url, path)), 20)]
    before = api.memory_info().rss
    for crowd in ("", ", again"):
        waits, grown = asyncio.run(beside_streams(url, path, api))
        held.append(line(f"status at {RATE}/s beside {STREAMS} streams{crowd}", waits, 100))
        after = api.memory_info().rss
        print(f"{'API over these streams':52s} {(grown - before) / MIB:.0f} MiB at their height, {(after - before) / MIB:.0f} after")
        before = after
    first = api.memory_info().rss
    for _ in range(300):
        http.get("/api/v1/jobs", params={"limit": 200}).raise_for_status()
    print(f"{'API over 300 lists of 200 jobs':52s} {(api.memory_info().rss - first) / MIB:.1f} MiB")
    for job in long:
        http.post(f"/api/v1/jobs/{job['id']}/cancel")
    return all(held)


async def steady(url: str, path: str, seconds: float = 15) -> list[float]:
    """Milliseconds of requests that are sent at a fixed rate, whether or not the ones before have come back."""
    waits: list[float] = []

    async with httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_connections=64)) as http:

        async def one() -> None:
            began = time.perf_counter()
            (await http.get(path)).raise_for_status()
            waits.append((time.perf_counter() - began) * 1000)

        await one()
        waits.clear()
        began, tasks = time.perf_counter(), []
        for i in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, began + i / RATE - time.perf_counter()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    return waits


async def beside_streams(url: str, path: str, api: psutil.Process) -> tuple[list[float], int]:
    """The same while many follow the job, and the API's resident bytes meanwhile."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(STREAMS)]
    for _, writer in opened:
        writer.write(f"GET {path}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    async def follow(reader: asyncio.StreamReader) -> None:
        while await reader.read(65536):
            pass

    followers = [asyncio.create_task(follow(reader)) for reader, _ in opened]
    await asyncio.sleep(15)  # each has the job's history to read first, some megabytes of it
    waits = await steady(url, path)
    resident = api.memory_info().rss
    for task in followers:
        task.cancel()
    for _, writer in opened:
        writer.close()
    return waits, resident


def await_state(
    http: httpx2.Client, job: dict[str, Any], wished: Callable[[dict[str, Any]], object], within_s: float = 60
) -> dict[str, Any]:
    """The job once it is as wished."""
    ends = time.monotonic() + within_s
    while not wished(job):
        if time.monotonic() > ends:
            raise SystemExit(f"not within {within_s} s: {job}")
        try:
            job = http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 2, "since": job["version"]}).json()
        except httpx2.HTTPError:
            time.sleep(0.1)
    return job


def drain(http: httpx2.Client) -> None:
    """Cancel what waits, and wait for what runs."""
    for state in ("queued", "running"):
        while items := http.get("/api/v1/jobs", params={"state": state, "limit": 200}).json()["items"]:
            for job in items:
                http.post(f"/api/v1/jobs/{job['id']}/cancel")
            time.sleep(0.2)


def processes(stack: Stack) -> list[psutil.Process]:
    """All processes of a stack."""
    found = []
    for root in roots(stack):
        process = psutil.Process(root)
        found += [process, *process.children(recursive=True)]
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def running(kind: str) -> Iterator[tuple[httpx2.Client, Stack]]:
    """A stack and a client of it."""
    with TemporaryDirectory() as folder:
        told = {"TEMPER_SLOTS": "2"}
        stack = Launch(Path(folder) / "data", workers=2) if kind == "embedded" else Separate(Path(folder), workers=1, environment=told)
        with stack, httpx2.Client(base_url=stack.url, timeout=120) as http:
            await_state(http, http.post("/api/v1/jobs", json=SMALL).json(), lambda job: job["done"])
            yield http, stack


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stack", choices=("embedded", "separate"), default="embedded")
    kind = parser.parse_args().stack
    held = [claims()]
    with running(kind) as (http, stack):
        held += [submit(http), frozen(http, stack), cancel(http), status(http, stack), detection(http, stack)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
