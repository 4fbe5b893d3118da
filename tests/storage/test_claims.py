"""Many claim at once: no shard twice, none forgotten, one end for each job, and quickly among ten thousand."""

import contextlib
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from sqlalchemy import select

from service.errors import Conflict
from service.storage import events, jobs, shards
from service.storage.sessions import Database
from service.storage.shards import Ghost
from service.storage.tables import jobs as job_table
from service.storage.tables import shards as table

PROJECT = "default"


def drain_queue(url: str) -> list[tuple[str, int]]:
    database, found = Database(url), []
    while True:
        with database.write() as c:
            claim = shards.claim(c, "x", 30.0, max_attempts=3, engine={})
        if claim is None:
            return found
        found.append((claim.job_id, claim.number))


def test_processes_never_claim_the_same_shard(desk: Any, url: str) -> None:
    ids = [desk.submit(members=4, parts=4) for _ in range(25)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        found = [claim for claims in pool.map(drain_queue, [url] * 4) for claim in claims]
    assert sorted(found) == sorted((job, number) for job in ids for number in range(4))


def race(url: str, job: str, number: int) -> str:
    """Finish or fail shards of one job while others do the same and one cancels."""
    database = Database(url)
    if number == 0:
        with contextlib.suppress(Conflict), database.write() as c:
            jobs.cancel(c, PROJECT, job)
        return "cancel"
    while True:
        with database.write() as c:
            claim = shards.claim(c, "x", 30.0, max_attempts=3, engine={})
        if claim is None:
            return "idle"
        try:
            with database.write() as c:
                shards.record(c, claim, lines=[("info", "x")])
            with database.write() as c:
                shards.finish(c, claim, {})
        except Ghost:
            return "ghost"


def test_a_race_of_finishes_and_a_cancel_leaves_one_end(desk: Any, url: str) -> None:
    for _ in range(5):
        job = desk.submit(members=8, parts=8)
        with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
            list(pool.map(race, [url] * 4, [job] * 4, [1, 2, 0, 3]))
        ended = desk.job(job)
        assert ended.state == "cancelled" or (ended.state == "succeeded" and ended.cancel_requested_at is None)
        with desk.database.read() as c:
            told = events.after(c, PROJECT, job, 0)
        assert [event.kind for event in told].count("end") == 1
        assert [event.number for event in told] == [*range(1, len(told) + 1)]


def test_ten_thousand_waiting_jobs_are_claimed_quickly(desk: Any) -> None:
    job = desk.submit()
    with desk.database.write() as c:
        row = dict(c.execute(select(job_table).where(job_table.c.id == job)).one()._mapping)
        part = dict(c.execute(select(table).where(table.c.job_id == job)).one()._mapping)
        names = [f"{job[:-5]}{n:05d}" for n in range(10_000)]
        c.execute(job_table.insert(), [{**row, "id": name} for name in names if name != job])
        c.execute(table.insert(), [{**part, "job_id": name} for name in names if name != job])
    times = []
    for _ in range(30):
        began = time.perf_counter()
        assert desk.claim() is not None
        times.append(time.perf_counter() - began)
    assert sorted(times)[15] < 0.25
