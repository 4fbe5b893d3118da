"""Certificates from post to answer: bounds and noise trained on, verified error beside the attacked one, radii of rows."""

from typing import Any

import pytest

from tests.system.desk import Desk

# What is certified does not depend on where rows and messages lie.
pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")
NET: dict[str, Any] = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 10}
SMOOTHING = {"sigma": 2.0, "n": 500, "alpha": 0.01}


def test_bounds_and_noise_from_post_to_certificate(desk: Desk) -> None:
    """An ensemble trained on bounds is verified as it answers; one trained on noise, smoothed, is certified row by row."""
    spec = {**NET, "name": "bounded", "ensemble": {"size": 2}, "adversarial_training": {"method": "ibp", "epsilon": 1.0}}
    model = desk.model(desk.run(spec))
    assert model["spec"]["early_stopping"] is None
    job = desk.run(
        {"kind": "robustness", "model": model["id"], "attacks": [{"type": "pgd", "steps": 10}], "epsilons": [0, 0.5, 1], "rows": 100}
    )
    result = job["result"]
    held, attacked = ([point["accuracy"] for point in found] for found in (result["certified"]["curve"], result["worst_case"]))
    clean = result["clean"]["accuracy"]
    assert held[0] == pytest.approx(clean, abs=0.011)
    assert all(clean >= a >= v for a, v in zip(attacked, held, strict=True))
    assert held[2] > 0.3
    assert len(result["certified"]["per_row"]) == result["rows"]
    desk.run({**NET, "name": "noised", "adversarial_training": {"method": "noise", "std": 2.0}})
    rows, labels = desk.rows("digits", "image", 0, 8)
    answer = desk.predict("noised", rows, smoothing=SMOOTHING)
    assert answer["smoothing"] == SMOOTHING
    found = answer["targets"]["label"]
    certain = [radius for radius, said, label in zip(found["radius"], found["prediction"], labels, strict=True) if said == label]
    assert len(certain) >= 6
    assert all(0 < radius < 2.4 * 2.0 for radius in certain)
    assert desk.predict("noised", rows[3:4], smoothing=SMOOTHING)["targets"]["label"]["radius"] == found["radius"][3:4]


@pytest.mark.parametrize(
    ("asked", "status", "pointer"),
    [
        ({"smoothing": {"n": 10}}, 422, "/smoothing/sigma"),
        ({"smoothing": {"sigma": 0.0}}, 422, "/smoothing/sigma"),
        ({"smoothing": {"sigma": 1.0, "alpha": 1.0}}, 422, "/smoothing/alpha"),
        ({"smoothing": {"sigma": 1.0}, "return": ["probabilities"]}, 422, "/return/0"),
        ({"smoothing": {"sigma": 1.0}, "mode": "monte_carlo"}, 422, "/smoothing"),
        ({"smoothing": {"sigma": 1.0, "n": 100_000}}, 413, None),
    ],
    ids=str,
)
def test_what_is_not_smoothed_is_refused(desk: Desk, asked: dict[str, Any], status: int, pointer: str | None) -> None:
    models = desk.http.get("/api/v1/models", params={"limit": 200}).json()["items"]
    if not any(model["name"] == "dropped" for model in models):
        desk.run({"name": "dropped", "dataset": "digits", "architecture": {"type": "mlp", "hidden": [8], "dropout": 0.2}, "epochs": 1})
    rows, _ = desk.rows("digits", "image", 0, 30)
    answer = desk.http.post("/api/v1/models/dropped/predict", json={"inputs": rows, **asked})
    assert answer.status_code == status, answer.text
    assert pointer is None or answer.json()["errors"][0]["pointer"] == pointer
    attack = {"inputs": rows[:1], "labels": ["0"], "attack": {"type": "fgsm", "epsilon": 1.0}, "smoothing": {"sigma": 1.0}}
    refused = desk.http.post("/api/v1/models/dropped/attack", json=attack).json()
    assert [error["pointer"] for error in refused["errors"]] == ["/smoothing"]
