"""A real worker's life: it hears the bell, runs, cancels, drains, and leaves nothing behind when it is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.storage import jobs, models, workers
from service.storage.jobs import JobDraft, ShardDraft
from tests.patience import until


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> set[int]:
    """All living processes below that one."""
    found, todo = set[int](), [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            children = {int(child) for child in task.read_text().split()}
            todo += children - found
            found |= children
    return found


def ready(house: Any) -> bool:
    return "ready." in house.log.read_text()


@pytest.fixture(params=["redis", "filesystem", "none"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        url: str = request.getfixturevalue("redis")
        return url
    return f"filesystem://{tmp_path / 'broker'}" if request.param == "filesystem" else ""


def test_a_job_runs_to_its_model(open_house: Any, broker: str) -> None:
    house = open_house(broker)
    worker = house.worker()
    job = house.submit(parts=3, epochs=4)
    done = house.ends(job)
    assert (done.state, done.stop_reason, done.attempt) == ("succeeded", "epochs", 1)
    assert [part["epoch"] for part in done.result["parts"]] == [4, 4, 4]
    assert house.states(job) == [("queued", None), ("running", None), ("succeeded", None)]
    assert all("celery False sqlalchemy False" in line for line in house.lines(job) if line.startswith("pid"))
    with house.database.read() as c:
        model = models.get(c, "default", "digits")
        assert [found.slots for found in workers.seen(c, 5)] == [1]
    assert (house.settings.files / model.files["model.safetensors"]["key"]).exists()
    worker.terminate()
    assert worker.wait(60) == 0
    with house.database.read() as c:
        assert workers.seen(c, 60) == []


@pytest.mark.parametrize("kind", ["redis", "filesystem"])
def test_a_ring_wakes_a_warm_worker(open_house: Any, request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    url = request.getfixturevalue("redis") if kind == "redis" else f"filesystem://{tmp_path / 'broker'}"
    house = open_house(url, poll_s=30.0)
    house.worker()
    house.ends(house.submit(epochs=1))
    until(lambda: ready(house))
    waits = []
    for _ in range(4):
        time.sleep(0.2)
        began = time.time()
        job = house.submit(epochs=1)
        house.ends(job)
        waits.append(float(house.lines(job)[1].split()[1]) - began)
    assert min(waits) < 2.0
    assert max(waits) < 15.0


def test_jobs_run_without_their_broker(open_house: Any, tmp_path: Path) -> None:
    house = open_house(f"redis+socket://{tmp_path / 'nobody.sock'}", poll_s=0.3)
    worker = house.worker()
    began = time.monotonic()
    job = house.submit(epochs=1)
    assert time.monotonic() - began < 5.0
    assert house.ends(job).state == "succeeded"
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_hung_broker_does_not_hold_who_submits(open_house: Any, redis: str) -> None:
    house = open_house(redis)
    house.submit()
    socket = redis.removeprefix("redis+socket://").encode()
    (server,) = [pid for pid in descendants(os.getpid()) if socket in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(server, signal.SIGSTOP)
    began = time.monotonic()
    house.submit()
    assert time.monotonic() - began < 5.0


def test_a_message_that_says_nothing_does_not_end_the_worker(open_house: Any, redis: str) -> None:
    house = open_house(redis, poll_s=30.0)
    worker = house.worker()
    until(lambda: ready(house))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(redis.removeprefix("redis+socket://"))
        client.sendall(b"LPUSH temper nonsense\r\n")
        client.recv(100)
    until(lambda: "hung up again" in house.log.read_text())
    until(lambda: house.log.read_text().count("ready.") == 2)
    assert house.ends(house.submit(epochs=1)).state == "succeeded"
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_cancel_kills(open_house: Any) -> None:
    house = open_house()
    house.worker()
    job = house.submit(parts=2, act="sleep")
    trainer = house.trainer(job)
    assert alive(trainer)
    house.ask(jobs.cancel, job)
    began = time.monotonic()
    assert house.ends(job).state == "cancelled"
    assert time.monotonic() - began < 15.0
    assert not alive(trainer)
    assert house.ends(house.submit(epochs=1)).state == "succeeded"


def test_a_stop_finishes_with_what_there_is(open_house: Any) -> None:
    house = open_house()
    house.worker()
    job = house.submit(epochs=500, pause_s=0.05)
    house.trainer(job)
    house.ask(jobs.stop, job)
    done = house.ends(job)
    assert (done.state, done.stop_reason) == ("succeeded", "user_stop")
    assert done.progress["epoch"] < 500


def test_the_time_limit_ends_like_a_stop(open_house: Any) -> None:
    house = open_house()
    house.worker()
    done = house.ends(house.submit(epochs=500, pause_s=0.05, limits={"time_s": 0.8}))
    assert (done.state, done.stop_reason) == ("succeeded", "time_limit")


def test_a_failure_ends_the_job_and_its_siblings(open_house: Any) -> None:
    house = open_house(slots=2)
    house.worker()
    job = house.submit(act="fail")
    failed = house.ends(job)
    assert (failed.state, failed.error["title"], failed.error["retryable"], failed.attempt) == ("failed", "X", False, 1)
    assert failed.error["log"] == house.lines(job)


def test_a_dead_trainer_is_tried_again(open_house: Any) -> None:
    house = open_house()
    house.worker()
    job = house.submit(act="die")
    done = house.ends(job)
    assert (done.state, done.attempt) == ("succeeded", 3)
    assert ("running", "Trainer killed by SIGKILL") in house.states(job)


def test_a_hung_trainer_is_killed_and_at_last_fails(open_house: Any) -> None:
    house = open_house(max_attempts=2)
    house.worker()
    job = house.submit(act="sleep", limits={"stall_s": 0.7})
    failed = house.ends(job)
    assert (failed.state, failed.attempt, failed.error["type"]) == ("failed", 2, "/problems/stalled")
    assert not alive(house.trainer(job))


def test_what_cannot_be_stored_fails_the_job_not_the_worker(open_house: Any) -> None:
    house = open_house(max_attempts=1)
    house.worker()
    assert house.ends(house.submit(act="nonsense")).error["type"] == "/problems/worker-fault"
    assert house.ends(house.submit(epochs=1)).state == "succeeded"


def test_a_killed_worker_leaves_no_process(open_house: Any) -> None:
    house = open_house()
    worker = house.worker()
    job = house.submit(act="sleep")
    trainer = house.trainer(job)
    below = descendants(worker.pid)
    assert trainer in below
    worker.kill()
    worker.wait()
    until(lambda: not any(alive(pid) for pid in below), within_s=10)  # it sleeps for minutes


def test_a_killed_workers_job_goes_on_elsewhere(open_house: Any) -> None:
    house = open_house()
    worker = house.worker()
    job = house.submit(epochs=30, pause_s=0.1)
    until(lambda: house.job(job).progress["epoch"] >= 3)
    worker.kill()
    worker.wait()
    house.worker()
    done = house.ends(job)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert done.result["parts"][0]["begin"] >= 3
    assert house.states(job)[1:4] == [("running", None), ("queued", "worker lost"), ("running", None)]


def test_a_paused_worker_wakes_as_a_ghost(open_house: Any) -> None:
    house = open_house(lease_s=1.5)
    first = house.worker()
    job = house.submit(epochs=30, pause_s=0.1)
    trainer = house.trainer(job)
    first.send_signal(signal.SIGSTOP)
    os.kill(trainer, signal.SIGSTOP)
    house.worker()
    until(lambda: house.job(job).attempt == 2)
    first.send_signal(signal.SIGCONT)
    os.kill(trainer, signal.SIGCONT)
    until(lambda: not alive(trainer))
    assert (house.ends(job).state, house.ends(job).attempt) == ("succeeded", 2)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_drain_gives_back(open_house: Any, deaf: bool) -> None:
    house = open_house()
    worker = house.worker()
    job = house.submit(epochs=100, pause_s=0.1, deaf=deaf)
    until(lambda: house.job(job).progress["epoch"] >= 2)
    trainer = house.trainer(job)
    began = time.monotonic()
    worker.terminate()
    assert worker.wait(60) == 0
    assert time.monotonic() - began < 30.0
    assert not alive(trainer)
    given = house.job(job)
    assert (given.state, given.reason, given.attempt) == ("queued", "worker drained", 1)
    with house.database.write() as c:
        jobs.cancel(c, "default", job)


def test_a_worker_that_is_ended_as_it_begins_drains_too(open_house: Any) -> None:
    """Its slots claim before Celery hears signals."""
    house = open_house()
    worker = house.worker()
    until(lambda: "the worker begins" in house.log.read_text())
    assert not ready(house)
    worker.terminate()
    assert worker.wait(60) == 0
    assert "the worker ends" in house.log.read_text()


def test_slots_run_side_by_side(open_house: Any) -> None:
    house = open_house(slots=2)
    house.worker()
    job = house.submit(parts=2, act="sleep")
    until(lambda: len([line for line in house.lines(job) if line.startswith("pid")]) == 2)
    house.ask(jobs.cancel, job)
    assert house.ends(job).state == "cancelled"


def test_the_supervisor_loads_no_torch() -> None:
    code = "import sys, workers.app; assert not {'torch', 'numpy'} & sys.modules.keys(), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent.parent)


@pytest.fixture
def storeless(open_house: Any) -> Any:
    """A house whose files are out of reach until the returned function is called, with a worker that has begun a job."""
    house = open_house(poll_s=0.2, heartbeat_s=0.3, lease_s=2.0)
    files = house.settings.files
    files.mkdir(exist_ok=True)
    aside = files.rename(files.with_name("aside"))
    house.worker()
    return house, lambda: aside.rename(files)


def test_an_attempt_waits_for_a_lost_store_and_its_job_is_not_used_up(storeless: Any) -> None:
    house, mend = storeless
    job = house.submit(act="read")
    until(lambda: house.lines(job))
    time.sleep(4.0)  # longer than three attempts and than a lease
    assert (house.job(job).state, house.job(job).attempt) == ("running", 1)
    mend()
    done = house.ends(job)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert ("running", "Dependency unavailable") in house.states(job)


def test_a_cancel_does_not_wait_for_a_lost_store(storeless: Any) -> None:
    house, _ = storeless
    job = house.submit(act="read")
    until(lambda: house.lines(job))
    house.ask(jobs.cancel, job)
    assert house.ends(job).state == "cancelled"


def test_a_worker_that_waits_for_a_lost_store_drains(storeless: Any) -> None:
    house, _ = storeless
    job = house.submit(act="read")
    until(lambda: house.lines(job))
    house.workers[0].terminate()
    assert house.workers[0].wait(10) == 0
    assert house.job(job).state == "queued"


def test_the_callers_trace_is_on_the_workers_lines(open_house: Any) -> None:
    house = open_house()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    draft = JobDraft("train", "traced", {"epochs": 1}, 1, 1, extra={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    with house.database.write() as c:
        job = jobs.insert(c, "default", draft, [ShardDraft("train", (0,))])
    house.worker()
    house.ends(job)
    lines = [json.loads(line) for line in house.log.read_text().splitlines() if line.startswith("{")]
    assert {line["event"] for line in lines if line.get("trace_id") == trace} >= {"the attempt begins", "the attempt ended"}
