"""Faults 35, 37, 38, 51 and 53: what users do to jobs at awkward moments, on both stacks."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import workers
from tests.chaos.field import QUICK, Field
from tests.patience import until

ON_EMBEDDED = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")


def cancel(field: Field, job: dict[str, Any]) -> int:
    return field.http.post(f"/api/v1/jobs/{job['id']}/cancel").status_code


def test_35_no_lease_is_measured_by_a_workers_clock() -> None:
    """Supervisors know durations and the database's time alone."""
    for path in Path(workers.__file__).parent.glob("*.py"):
        assert not re.search(r"\btime\.time\(|datetime|utcnow", path.read_text()), path


@ON_EMBEDDED
def test_37_a_queued_job_that_is_cancelled_never_begins(field: Field) -> None:
    with field.paused("worker"):
        job = field.desk.post({**QUICK, "name": "queued"})
        began = time.monotonic()
        assert cancel(field, job) == 202
        assert field.http.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "cancelled"
        assert time.monotonic() - began < 10
        assert cancel(field, job) == 200
    time.sleep(1.5)
    assert field.rows("SELECT max(attempts) FROM shards WHERE job_id = :job", job=job["id"])[0][0] == 0


def test_37_cancels_at_any_moment_leave_one_end_and_no_trainer(field: Field) -> None:
    """While claiming, in the middle, in a checkpoint, in the finish: wherever these delays meet it."""
    for delay in (0.0, 0.05, 0.15, 0.3, 0.5, 0.8):
        job = field.desk.post({**field.spec(f"struck-{int(delay * 100)}", 30), "checkpoint_interval_s": 0})
        time.sleep(delay)
        status = cancel(field, job)
        done = field.ends(job)
        assert status in (202, 409)
        assert done["state"] in ("cancelled", "succeeded")
        assert (done["state"] == "succeeded") == (done["model"] is not None)
        assert field.rows("SELECT count(*) FROM events WHERE job_id = :job AND kind = 'end'", job=job["id"])[0][0] == 1
        assert cancel(field, job) == (200 if done["state"] == "cancelled" else 409)
    until(lambda: not field.pids("trainer"), 15)


def test_37_a_cancelled_jobs_memory_is_gone(field: Field) -> None:
    job = field.begun(field.spec("heavy", 5000), share=0.001)
    held = field.pids("trainer")
    began = time.monotonic()
    assert cancel(field, job) == 202
    assert field.ends(job)["state"] == "cancelled"
    assert time.monotonic() - began < 20
    assert not set(held) & set(field.pids("trainer"))


@ON_EMBEDDED
def test_38_a_running_job_is_not_deleted_and_an_ended_one_leaves_no_file(field: Field) -> None:
    job = field.begun(field.spec("kept", 5000), share=0.001)
    answer = field.http.delete(f"/api/v1/jobs/{job['id']}")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/job-running")
    assert (field.files / "jobs" / job["id"]).exists()
    cancel(field, job)
    field.ends(job)
    assert field.http.delete(f"/api/v1/jobs/{job['id']}").status_code == 204
    until(lambda: not (field.files / "jobs" / job["id"]).exists())


@ON_EMBEDDED
def test_51_a_model_that_is_published_anew_answers_old_or_new(field: Field) -> None:
    versions = {field.desk.run({**QUICK, "name": "replaced-model"})["model"]}
    seen: set[tuple[int, str]] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = field.http.post("/api/v1/models/replaced-model/predict", json={"inputs": [[[0.0] * 8] * 8]})
            seen.add((answer.status_code, str(answer.json().get("model"))))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for seed in (1, 2):
        versions.add(field.desk.run({**QUICK, "name": "replaced-model", "seed": seed})["model"])
    over.set()
    for asker in askers:
        asker.join()
    assert {status for status, _ in seen} == {200}
    assert {model for _, model in seen} <= versions
    assert len(seen) >= 2
