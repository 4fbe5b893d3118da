"""Adversarial training from post to report: its series, its log, and what answers around rows do before and after."""

from typing import Any

import pytest

from tests.system.desk import Desk

# What is trained does not depend on where rows and messages lie.
pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")
NET: dict[str, Any] = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 10, "early_stopping": None}
METHODS: dict[str, dict[str, Any]] = {"fast": {"epsilon": 1.5}, "trades": {"epsilon": 1.5, "steps": 3}}


@pytest.mark.parametrize("method", METHODS)
def test_answers_change_less_around_rows_than_those_of_its_plain_twin(desk: Desk, method: str) -> None:
    job = desk.run({**NET, "ensemble": {"size": 2}, "adversarial_training": {"method": method, **METHODS[method]}})
    twin = desk.run({**NET, "ensemble": {"size": 2}, "adversarial_training": {"method": method, **METHODS[method], **_without(method)}})
    found, plain = (desk.report(each)["adversarial_training"] for each in (job, twin))
    assert found["method"] == method
    assert found["rolled_back"] == []
    for part in ("train", "test"):
        around, around_plain = (report["local_constancy"]["after"][part]["adversarial"]["kl"] for report in (found, plain))
        assert 0 < around < around_plain
    assert found["local_constancy"]["before"] == plain["local_constancy"]["before"]
    series = desk.http.get(f"/api/v1/jobs/{job['id']}/metrics").json()["name"]
    assert ({"validation.fgsm_accuracy", "validation.pgd_accuracy"} <= set(series)) == (method == "fast")
    page = desk.http.get(f"/api/v1/models/{job['model']}/report.html").text
    assert "Adversarial training" in page
    assert "KL before" in page


def _without(method: str) -> dict[str, Any]:
    """What leaves nothing of the method."""
    return {"beta": 0.0} if method == "trades" else {"weight": 0.0}
