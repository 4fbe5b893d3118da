"""An autoencoder of images and a class on its code: posted, measured, asked, attacked, checked."""

from typing import Any

import numpy as np
import pytest

from tests.system.desk import Desk

CODER: dict[str, Any] = {
    "name": "coder",
    "dataset": "digits",
    "architecture": {"type": "autoencoder", "hidden": [24], "code": 6, "tied": True},
    "targets": [{"name": "input", "task": "reconstruction", "loss": "mse_original", "weight": 0.05}, {"name": "label"}],
    "early_stopping": {"monitor": "input.error_original", "patience": 5},
    "epochs": 6,
}


@pytest.fixture(scope="module")
def job(desk: Desk) -> Any:
    return desk.run(CODER)


def test_a_job_says_what_tying_saves_before_it_starts(desk: Desk) -> None:
    plan = desk.http.post("/api/v1/jobs:validate", json=CODER).json()
    assert plan["saved_by_tying"] == 64 * 24 + 24 * 6
    assert [layer["name"] for layer in plan["layers"]] == ["encoder.0", "code", "decoder.0", "head.input", "head.label"]
    assert sum(layer["parameters"] for layer in plan["layers"]) == plan["parameters"]


def test_both_errors_are_reported(desk: Desk, job: Any) -> None:
    report = desk.report(job)
    test = report["splits"]["test"]
    for name in ("error_normalized", "error_original"):
        assert report["reconstruction"][name] == test[f"input.{name}"] > 0
    ratio = test["input.error_original"] / test["input.error_normalized"]
    assert ratio == pytest.approx(report["normalization"]["image"]["std"] ** 2, rel=1e-4), "one scale for all entries"
    assert report["parameters"]["saved_by_tying"] == 64 * 24 + 24 * 6
    assert report["constant_features"] is None
    assert job["best"]["metric"] == "validation.input.error_original"
    page = desk.http.get(f"/api/v1/models/{job['model']}/report.html").text
    assert "Tying saves 1,680 parameters" in page
    assert "error_original" in page


def test_rows_come_back_with_code_and_error(desk: Desk, job: Any) -> None:
    inputs, _ = desk.rows("digits", "image", 0, 4)
    found = desk.predict(job["model"], inputs, **{"return": ["code", "error"]})["targets"]
    said = np.array(found["input"]["prediction"])
    assert said.shape == (4, 8, 8)
    np.testing.assert_allclose(((said - np.array(inputs)) ** 2).mean((1, 2)), found["input"]["error"], rtol=1e-6)
    assert np.array(found["input"]["code"]).shape == (4, 6)
    assert len(found["label"]["prediction"]) == 4


def test_a_robustness_job_raises_the_error(desk: Desk) -> None:
    alone = desk.run(
        {**{key: value for key, value in CODER.items() if key != "targets"}, "name": "alone", "early_stopping": None, "epochs": 3}
    )
    inputs, _ = desk.rows("digits", "image", 0, 3)
    answer = desk.http.post(f"/api/v1/models/{alone['model']}/attack", json={"inputs": inputs, "attack": {"type": "fgsm", "epsilon": 1.0}})
    assert answer.status_code == 200, answer.text
    spec = {"kind": "robustness", "model": alone["model"], "rows": 20, "attacks": [{"type": "fgsm"}], "epsilons": [0.0, 2.0]}
    result = desk.run(spec)["result"]
    curve = result["attacks"][0]["curve"]
    assert curve[1]["rmse"] > curve[0]["rmse"] == pytest.approx(result["clean"]["rmse"])
    assert result["per_row"]["label"] == [None] * 20
