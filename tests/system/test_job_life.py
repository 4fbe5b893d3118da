"""Stop, cancel, kill: what becomes of a job."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.desk import Desk
from tests.system.long_jobs import LONG, MARATHON
from tests.system.separate import Stack


def running(job: dict[str, Any]) -> bool:
    return bool(job["state"] == "running" and job["progress"]["epoch"] >= 1)


def test_a_stopped_job_succeeds_with_what_it_has(desk: Desk) -> None:
    job = desk.wait(desk.post(LONG), until=running)
    assert desk.http.post(f"/api/v1/jobs/{job['id']}/stop").status_code == 202
    job = desk.wait(job)
    assert (job["state"], job["stop_reason"]) == ("succeeded", "user_stop")
    assert desk.model(job)["members"] >= 1
    again = desk.http.post(f"/api/v1/jobs/{job['id']}/stop")
    assert again.status_code == 409
    assert again.json()["type"] == "/problems/already-terminal"


def test_a_cancelled_job_publishes_nothing(desk: Desk, killer: Callable[[], int]) -> None:
    job = desk.wait(desk.post({**LONG, "name": "never"}), until=running)
    asked = time.monotonic()
    assert desk.http.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 202
    job = desk.wait(job)
    assert job["state"] == "cancelled"
    assert job["model"] is None
    assert time.monotonic() - asked < 60
    assert desk.http.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 200
    assert desk.http.get("/api/v1/models/never").status_code == 404
    assert desk.http.delete(f"/api/v1/jobs/{job['id']}").status_code == 204
    assert desk.http.get(f"/api/v1/jobs/{job['id']}").status_code == 404


def test_a_time_limit_ends_like_a_stop(desk: Desk) -> None:
    job = desk.run({**LONG, "name": "brief", "limits": {"time_s": 1.5}})
    assert job["stop_reason"] == "time_limit"
    assert job["model"]


@pytest.mark.parametrize(
    "optimizer", [{"type": "adam"}, {"type": "sgd", "learning_rate": 0.05}], ids=lambda optimizer: str(optimizer["type"])
)
def test_a_killed_trainer_resumes_to_the_same_bytes(desk: Desk, killer: Callable[[], int], optimizer: dict[str, Any]) -> None:
    spec = {
        **LONG, "name": f"resumed-{optimizer['type']}", "epochs": 60, "optimizer": optimizer, "checkpoint_interval_s": 0,
        "early_stopping": {"patience": 50}, "adversarial_training": {"method": "fgsm", "epsilon": 0.5},
        "regularizers": [{"type": "l1", "alpha": 1e-4}, {"type": "max_norm", "limit": 3.0}],
    }  # fmt: skip
    undisturbed = desk.model(desk.run(spec))
    job = desk.post(spec)
    kills = 0
    for share in (0.1, 0.4, 0.7):
        job = desk.wait(
            job, until=lambda job, share=share: bool(job["done"] or (job["state"] == "running" and job["progress"]["fraction"] > share))
        )
        kills += killer() if not job["done"] else 0
    job = desk.wait(job)
    assert job["state"] == "succeeded", job["error"]
    assert kills >= 1
    assert job["attempt"] > 1
    log = desk.http.get(f"/api/v1/jobs/{job['id']}/logs").text
    assert "resumed at epoch" in log
    assert desk.model(job)["sha256"] == undisturbed["sha256"]


def test_a_diverging_job_fails_with_its_cause(desk: Desk) -> None:
    spec = {
        "dataset": "diabetes",
        "architecture": {"type": "mlp", "hidden": [8]},
        "optimizer": {"type": "sgd", "learning_rate": 1000.0},
        "epochs": 5,
    }
    job = desk.wait(desk.post({**spec, "preprocessing": {"normalize": "none", "normalize_targets": False}}))
    assert job["state"] == "failed"
    assert job["error"]["type"] == "/problems/diverged"
    assert "learning rate" in job["error"]["detail"]


def test_a_cancelled_job_goes_on_where_it_was_when_it_is_tried_again(desk: Desk, undisturbed: str) -> None:
    spec = {**MARATHON, "name": "again", "checkpoint_interval_s": 0}
    job = desk.wait(desk.post(spec), until=lambda job: bool(job["done"] or job["progress"]["fraction"] > 0.2))
    assert desk.http.post(f"/api/v1/jobs/{job['id']}/retry").status_code == 409
    desk.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    job = desk.wait(job)
    assert job["state"] == "cancelled"
    again = desk.http.post(f"/api/v1/jobs/{job['id']}/retry")
    assert again.status_code == 202
    assert again.json()["state"] in ("queued", "running")
    job = desk.wait(again.json())
    assert job["state"] == "succeeded"
    assert "resumed at epoch" in desk.http.get(f"/api/v1/jobs/{job['id']}/logs").text
    assert desk.model(job)["sha256"] == undisturbed


def test_only_the_newest_checkpoints_are_kept(desk: Desk, stack: Stack) -> None:
    job = desk.wait(desk.post({**LONG, "name": "pruned", "checkpoint_interval_s": 0}), until=lambda job: job["progress"]["epoch"] >= 25)
    kept = [*(stack.data / "files" / "jobs" / job["id"]).rglob("*.state")]
    numbers = [int(path.stem) for path in kept]
    desk.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    desk.wait(job)
    assert max(numbers) > 10
    # Of each of two shards the committed one, and those that are written or not yet committed.
    assert len(kept) <= 16
