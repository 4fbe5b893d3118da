"""Stop, limit, kill: what becomes of a robustness job."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.system.desk import Desk

SLOW: dict[str, Any] = {"attacks": [{"type": "pgd", "steps": 100, "restarts": 20}], "epsilons": [0.5, 1, 2], "rows": 1200, "split": "train"}


@pytest.fixture(scope="module")
def model(desk: Desk) -> str:
    return str(desk.run({"name": "wall", "dataset": "digits", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 8})["model"])


def begun(job: dict[str, Any]) -> bool:
    return bool(job["done"] or job["progress"]["fraction"] > 0)


def test_a_stopped_robustness_job_succeeds_with_the_rows_it_reached(desk: Desk, model: str) -> None:
    job = desk.wait(desk.post({"kind": "robustness", "model": model, **SLOW}), until=begun)
    assert not job["done"]
    refused = desk.http.delete(f"/api/v1/models/{model}")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/model-in-use")
    assert desk.http.post(f"/api/v1/jobs/{job['id']}/stop").status_code == 202
    job = desk.wait(job)
    assert (job["state"], job["stop_reason"]) == ("succeeded", "user_stop"), job["error"]
    result = job["result"]
    assert 0 < result["rows"] < SLOW["rows"]
    assert len(result["per_row"]["row"]) == len(result["per_row"]["label"]) == len(result["per_row"]["broken_at"]) == result["rows"]
    assert result["reliable"] is None


def test_a_robustness_job_ends_at_its_time_limit(desk: Desk, model: str) -> None:
    job = desk.wait(desk.post({"kind": "robustness", "model": model, **SLOW, "limits": {"time_s": 2}}))
    assert (job["state"], job["stop_reason"]) == ("succeeded", "time_limit"), job["error"]


def test_a_killed_robustness_job_goes_on_from_its_rows(desk: Desk, model: str, killer: Callable[[], int]) -> None:
    spec = {"kind": "robustness", "model": model, **SLOW, "attacks": [{"type": "pgd", "steps": 40, "restarts": 5}]}
    undisturbed = desk.run(spec)["result"]
    job = desk.wait(desk.post(spec), until=begun)
    assert killer()
    job = desk.wait(job)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert job["result"] == undisturbed
