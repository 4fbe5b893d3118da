"""Faults 5, 6, 9, 10, 16, 17, 39, 40 and 50: workers that are killed, paused and drained at moments that hurt."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.field import QUICK, Field
from tests.patience import until
from tests.system.desk import alive, descendants

pytestmark = pytest.mark.parametrize("stack", ["separate"], indirect=True, scope="session")


def owner(field: Field, job: str) -> int:
    """The worker whose trainer learns this job now; all others run nothing."""
    assert job
    return int(until(lambda: next((pid for pid in field.pids("worker") if busy(pid)), None)))


def busy(worker: int) -> list[int]:
    """The trainers of one worker."""
    found = []
    for child in descendants(worker):
        try:
            if os.getpgid(child) == child and b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        except (OSError, ProcessLookupError):
            continue
    return found


def fork_servers(field: Field) -> list[int]:
    """The processes that trainers are forked from."""
    everyone = [child for worker in field.pids("worker") for child in descendants(worker)]
    return [pid for pid in everyone if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes() and os.getpgid(pid) != pid]


def test_5_a_worker_dies_between_the_ring_and_the_claim(field: Field) -> None:
    with field.paused("worker"):
        job = field.desk.post({**QUICK, "name": "unclaimed"})
        lock = field.locked("shards")
        lock.__enter__()
    time.sleep(1.0)  # the ring is heard, and the claim waits for the table
    field.strike("worker")
    lock.__exit__(None, None, None)
    assert field.rows("SELECT max(attempts) FROM shards WHERE job_id = :job", job=job["id"])[0][0] == 0
    field.whole()
    done = field.ends(job)
    assert (done["state"], done["attempt"]) == ("succeeded", 1)


def test_6_a_worker_dies_between_the_claim_and_its_trainer(field: Field) -> None:
    until(lambda: len(fork_servers(field)) >= 2)
    stopped = fork_servers(field)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    job = field.desk.post({**QUICK, "name": "unspawned"})
    until(lambda: field.rows("SELECT 1 FROM shards WHERE job_id = :job AND state = 'running'", job=job["id"]))
    field.strike("worker")
    for pid in stopped:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    field.whole()
    done = field.ends(job)
    assert (done["state"], done["attempt"]) == ("succeeded", 2)
    assert done["reason"] is None


def test_9_a_checkpoint_that_no_row_knows_is_not_used(field: Field) -> None:
    """Its worker stands still between file and row while the trainer goes on, then both die."""
    job = field.begun(field.spec("unknown"))
    worker = owner(field, job["id"])
    trainer = busy(worker)
    os.kill(worker, signal.SIGSTOP)
    (known,) = [row[0] for row in field.rows("SELECT checkpoint FROM shards WHERE job_id = :job AND kind = 'train'", job=job["id"])]
    folder = field.files / "jobs" / job["id"]
    count = len([*folder.rglob("*.state")])
    until(lambda: len([*folder.rglob("*.state")]) >= count + 2)
    for pid in (*trainer, worker):
        os.kill(pid, signal.SIGKILL)
    assert field.rows("SELECT checkpoint FROM shards WHERE job_id = :job AND kind = 'train'", job=job["id"])[0][0] == known
    field.whole()
    field.same(field.ends(job))
    assert "resumed at epoch" in field.log(job)
    until(lambda: not folder.exists())  # the orphans with all others


def test_10_a_worker_dies_when_its_trainer_is_done(field: Field) -> None:
    """And fault 50: the last shard's end, with the parent's, is one transaction, which has not happened."""
    job = field.begun(field.spec("untold"))
    worker = owner(field, job["id"])
    (trainer,) = busy(worker)
    os.kill(worker, signal.SIGSTOP)
    until(lambda: not alive(trainer))
    os.kill(worker, signal.SIGKILL)
    field.whole()
    done = field.ends(job)
    assert done["attempt"] >= 2
    field.same(done)


def test_16_a_trainer_does_not_outlive_its_worker(field: Field) -> None:
    job = field.begun(field.spec("orphan", 5000), share=0.005)
    worker = owner(field, job["id"])
    trainers = busy(worker)
    os.kill(worker, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in trainers), 10)  # it has minutes to go
    field.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    field.whole()
    assert field.ends(job)["state"] == "cancelled"


def test_17_a_worker_that_sleeps_past_its_lease_wakes_as_a_ghost(field: Field) -> None:
    job = field.begun(field.spec("haunted", 300))
    worker = owner(field, job["id"])
    trainers = busy(worker)
    os.kill(worker, signal.SIGSTOP)
    try:
        until(lambda: field.rows("SELECT 1 FROM shards WHERE job_id = :job AND fence = 2", job=job["id"]))
    finally:
        os.kill(worker, signal.SIGCONT)
    until(lambda: not any(alive(pid) for pid in trainers), 30)
    done = field.ends(job)
    assert done["attempt"] == 2
    field.same(done, 300)
    assert ("queued", "worker lost") in field.states(job)


@pytest.mark.parametrize("kill", [False, True], ids=["39-drained", "40-killed-a-second-later"])
def test_39_workers_are_rolled_over_under_load(field: Field, kill: bool) -> None:
    jobs = [field.desk.post(field.spec(f"rolled-{kill}-{n}".lower())) for n in range(3)]
    for _ in range(3):
        time.sleep(1.0)
        for process in list(field.separate.workers):
            process.send_signal(signal.SIGTERM)
            if kill:
                time.sleep(1.0 if process is field.separate.workers[0] else 0.2)
                process.kill()
            # One that has only begun to load has nothing to give back.
            assert process.wait(60) in (0, -signal.SIGTERM, -signal.SIGKILL if kill else 0)
            field.separate.tend()
    for job in jobs:
        field.same(field.ends(job))
        assert kill or ("queued", "worker lost") not in field.states(job)
