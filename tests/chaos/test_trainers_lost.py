"""Faults 8, 12, 13, 15, 30 and 33: trainers that are killed, broken off, paused, and checkpoints that are damaged."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.field import SPEC, Field
from tests.patience import until
from tests.system.desk import alive

pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")


def kill_trainers(field: Field, number: int = signal.SIGKILL) -> None:
    for pid in until(lambda: field.pids("trainer")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_8_a_trainer_dies_while_it_writes_a_checkpoint(field: Field) -> None:
    """Large weights take long to write: the kill comes when the temporary file is there."""
    spec = {**SPEC, "name": "torn", "architecture": {"type": "mlp", "hidden": [1200, 1200]}, "epochs": 6, "checkpoint_interval_s": 0}
    undisturbed = field.desk.model(field.desk.run({**spec, "name": "whole"}))["sha256"]
    job = field.begun(spec, share=0.1)
    folder = field.files / "jobs" / job["id"]

    def torn() -> bool:
        halves = [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".part")]
        return bool(halves) and bool(field.pids("trainer"))

    until(torn)
    kill_trainers(field)
    done = field.ends(job)
    assert done["state"] == "succeeded"
    assert field.desk.model(done)["sha256"] == undisturbed
    assert "damaged" not in field.log(job)
    until(lambda: not folder.exists())


def test_12_a_killed_trainer_is_replaced_at_once(field: Field) -> None:
    job = field.begun(field.spec("replaced"))
    kill_trainers(field)
    until(lambda: field.rows("SELECT 1 FROM shards WHERE job_id = :job AND fence = 2", job=job["id"]))
    field.same(field.ends(job))
    assert ("queued", "worker lost") not in field.states(job)  # nobody waited for the lease to run out


def test_13_a_job_that_breaks_its_trainer_each_time_ends(field: Field) -> None:
    """Its first epoch is long: no attempt has a checkpoint."""
    job = field.desk.post({**SPEC, "name": "poison", "batch_size": 1, "epochs": 50})
    seen: set[int] = set()
    while not job["done"]:
        for pid in set(field.pids("trainer")) - seen:
            seen.add(pid)
            os.kill(pid, signal.SIGSEGV)
        job = field.http.get(f"/api/v1/jobs/{job['id']}").json()
    assert (job["state"], job["attempt"]) == ("failed", 3)
    assert job["error"]["type"] == "/problems/trainer-killed"
    assert "SIGSEGV" in job["error"]["detail"]
    assert field.desk.run({**field.spec("not-poison", 5)})["state"] == "succeeded"


def test_15_a_trainer_that_hangs_is_killed_and_replaced(field: Field) -> None:
    job = field.begun({**field.spec("hanging"), "limits": {"stall_s": 20}})  # on a crowded machine one that is well is silent for seven
    stopped = field.strike("trainer", signal.SIGSTOP)
    until(lambda: not any(alive(pid) for pid in stopped))
    done = field.ends(job)
    assert done["attempt"] == 2
    field.same(done)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": bytes(content), "cut": bytes(content[: len(content) // 2]), "empty": b""}[how])


@pytest.mark.parametrize(("which", "how"), [("newest", "flipped"), ("newest", "empty"), ("both", "cut")])
def test_33_a_damaged_checkpoint_is_not_used(field: Field, which: str, how: str) -> None:
    """The one before it is; with none left the shard begins anew. The log says so."""
    job = field.begun(field.spec(f"damaged-{which}-{how}"), share=0.3)
    field.strike("trainer", signal.SIGSTOP)
    until(lambda: settled(field, job))
    with field.paused("worker"):
        kill_trainers(field)
        record = record_of(field, job)
        for one in (record, record["previous"]) if which == "both" else (record,):
            damage(field.files / one["files"]["weights"]["key"], how)
    done = field.ends(job)
    field.same(done)
    log = field.log(job)
    assert "The one before it is used." in log
    assert ("begins anew" in log) == (which == "both")
    assert ("resumed at epoch" in log) == (which == "newest")


def settled(field: Field, job: dict[str, Any]) -> bool:
    """Whether the worker has heard all that the job's trainer, which stands still, had said: for two heartbeats there is no news."""
    before = record_of(field, job)
    time.sleep(1.0)
    return record_of(field, job) == before


def record_of(field: Field, job: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint that the row names."""
    found = field.rows("SELECT checkpoint FROM shards WHERE job_id = :job AND kind = 'train'", job=job["id"])[0][0]
    record: dict[str, Any] = found if isinstance(found, dict) else json.loads(found)
    return record


def test_33_a_damaged_model_is_not_asked(field: Field) -> None:
    """And fault 34: nor is one whose file is gone; others answer."""
    jobs = [field.desk.run(field.spec(name, 2)) for name in ("rotten", "gone", "sound")]
    paths = [field.files / "models" / job["model"] / "model.safetensors" for job in jobs]
    damage(paths[0], "flipped")
    paths[1].unlink()
    inputs = [[[0.0] * 8] * 8]
    for job in jobs[:2]:
        answer = field.http.post(f"/api/v1/models/{job['model']}/predict", json={"inputs": inputs})
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/artifact-corrupt")
    assert field.http.post(f"/api/v1/models/{jobs[2]['model']}/predict", json={"inputs": inputs}).status_code == 200
