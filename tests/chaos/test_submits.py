"""Faults 1 to 3 and 18 to 24: what becomes of a job that is posted while the API or the broker falls."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from service.queue import Doorbell
from tests.chaos.field import QUICK, Field
from tests.patience import until
from tests.system.separate import visitor

ON_SEPARATE = pytest.mark.parametrize("stack", ["separate"], indirect=True, scope="session")


def post(field: Field, name: str) -> httpx2.Response | None:
    """The answer to a job posted under its name as key; None when the API fell meanwhile."""
    with visitor(field.stack, 30) as http:
        try:
            return http.post("/api/v1/jobs", json={**QUICK, "name": name}, headers={"Idempotency-Key": name})
        except httpx2.TransportError:
            return None


def again(field: Field, name: str) -> dict[str, Any]:
    """The job of a repeated post, once the API takes it; a key whose holder died is free when its lease ends."""
    answer = until(lambda: (found := post(field, name)) is not None and found.status_code == 202 and found)
    found: dict[str, Any] = answer.json()
    return found


def test_1_the_api_dies_before_the_commit(field: Field) -> None:
    with ThreadPoolExecutor(1) as callers:
        with field.locked("jobs"):
            answer = callers.submit(post, field, "uncommitted")
            time.sleep(0.5)
            field.strike("api")
        assert answer.result() is None
    assert field.count("uncommitted") == 0
    field.whole()
    with field.database.write() as c:  # who died holds the key for half a minute; here the time passes at once
        c.execute(text("UPDATE idempotency SET lease = 0"))
    job = again(field, "uncommitted")
    assert field.count("uncommitted") == 1
    assert field.ends(job)["state"] == "succeeded"


@pytest.mark.parametrize("hung", [True, False], ids=["2-before-the-ring", "3-before-the-reply"])
def test_2_the_api_dies_after_the_commit(field: Field, hung: bool) -> None:
    """A broker that hangs holds the API between commit and reply; else the kill comes as soon as the row is seen."""
    name = f"unrung-{hung}".lower()
    with ThreadPoolExecutor(1) as callers:
        if hung:
            with field.paused("broker"):
                answer = callers.submit(post, field, name)
                until(lambda: field.count(name))
                field.strike("api")
        else:
            answer = callers.submit(post, field, name)
            until(lambda: field.count(name))
            field.strike("api")
        if hung:
            assert answer.result() is None
    until(lambda: field.rows("SELECT 1 FROM jobs WHERE name = :name AND state <> 'queued'", name=name))
    field.whole()
    job = again(field, name)
    assert field.count(name) == 1
    assert field.ends(job)["state"] == "succeeded"


@ON_SEPARATE
def test_18_many_rings_for_one_job_give_one_claim(field: Field) -> None:
    """And faults 11 and 19: rings for a job that is done, and messages that say nothing."""
    bell = Doorbell(field.separate.redis.url)
    try:
        with field.paused("worker"):
            job = field.desk.post({**QUICK, "name": "rung"})
            bell.ring(5)
        done = field.ends(job)
        assert (done["state"], done["attempt"]) == ("succeeded", 1)
        assert field.rows("SELECT max(attempts) FROM shards WHERE job_id = :job", job=job["id"])[0][0] == 1
        bell.ring(5)
        for words in ("nonsense", '{"body":"AAAA"}'):
            field.separate.redis.say("LPUSH", "temper", words)
        bell._app.send_task("nobody.knows", queue="temper", ignore_result=True)
        again = field.desk.run({**QUICK, "name": "rung-after"})
        assert again["attempt"] == 1
        assert len(field.pids("worker")) == 2
        assert field.http.get(f"/api/v1/jobs/{job['id']}").json()["version"] == done["version"]
    finally:
        bell.close()


@ON_SEPARATE
def test_20_the_broker_dies_and_comes_back(field: Field) -> None:
    running = field.begun(field.spec("brokerless"))
    field.strike("broker")
    began = time.monotonic()
    jobs = [field.desk.post({**QUICK, "name": f"silent-{n}"}) for n in range(3)]
    assert time.monotonic() - began < 10.0
    assert field.ends(jobs[0])["state"] == "succeeded"  # by polling
    field.separate.redis.process.wait()
    field.separate.redis.start()
    assert [field.ends(job)["state"] for job in jobs[1:]] == ["succeeded"] * 2
    done = field.ends(running)
    assert done["attempt"] == 1
    field.same(done)


@ON_SEPARATE
def test_21_a_broker_that_forgot_everything_loses_no_job(field: Field) -> None:
    with field.paused("worker"):
        jobs = [field.desk.post({**QUICK, "name": f"forgotten-{n}"}) for n in range(12)]
        assert field.separate.redis.say("FLUSHALL") == b"+OK\r\n"
    assert {field.ends(job)["state"] for job in jobs} == {"succeeded"}


@ON_SEPARATE
def test_22_api_and_worker_start_without_a_broker(field: Field) -> None:
    for role in ("broker", "api", "worker"):
        field.strike(role)
    field.separate.redis.process.wait()
    for process in (field.separate.api, *field.separate.workers):
        process.wait()
    field.separate.tend()
    field.separate.await_ready()
    assert field.desk.run({**QUICK, "name": "unannounced"})["state"] == "succeeded"


@ON_SEPARATE
def test_23_a_broker_that_hangs_holds_nobody(field: Field) -> None:
    waits = []
    with field.paused("broker"):
        for n in range(8):
            began = time.monotonic()
            job = field.desk.post({**QUICK, "name": f"hung-{n}"})
            waits.append(time.monotonic() - began)
        assert field.ends(job)["state"] == "succeeded"
    assert max(waits) < 5.0, waits
    assert sorted(waits)[4] < 2.0, waits


@ON_SEPARATE
def test_24_a_broker_that_is_full_refuses_and_harms_nobody(field: Field) -> None:
    redis = field.separate.redis
    assert redis.say("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
    try:
        began = time.monotonic()
        job = field.desk.post({**QUICK, "name": "full"})
        assert time.monotonic() - began < 3.0
        assert field.ends(job)["state"] == "succeeded"
    finally:
        redis.say("CONFIG", "SET", "maxmemory", "0")
    assert field.desk.run({**QUICK, "name": "full-after"})["state"] == "succeeded"
