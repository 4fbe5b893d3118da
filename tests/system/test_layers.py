"""A list of named layers from post to prediction: a convolutional autoencoder with a class on its code, and a net that starts from it."""

from typing import Any

import numpy as np
import pytest

from tests.system.desk import Desk

# What a network is does not depend on where rows and messages lie.
pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")
ENCODER: list[dict[str, Any]] = [
    {"type": "convolution", "channels": 4, "name": "seen"},
    {"type": "activation"},
    {"type": "residual", "layers": [{"type": "convolution", "channels": 4, "name": "inner"}, {"type": "share", "as": "inner"}]},
    {"type": "max_pool", "name": "pool"},
    {"type": "flatten"},
]
SPEC: dict[str, Any] = {
    "name": "spelled",
    "dataset": "digits",
    "architecture": {
        "type": "layers",
        "layers": [
            *ENCODER,
            {"type": "linear", "width": 6, "name": "code"},
            {"type": "dropout", "rate": 0.2},
            {"type": "linear", "width": 64},
            {"type": "reshape", "shape": [4, 4, 4]},
            {"type": "unpool", "of": "pool"},
        ],
    },
    "targets": [{"name": "label"}, {"name": "input", "task": "reconstruction"}],
    "regularizers": [{"type": "l2", "alpha": 1e-4}],
    "ensemble": {"size": 2, "vary": {"dropout": [0.0, 0.3]}},
    "epochs": 2,
}


@pytest.fixture(scope="module")
def job(desk: Desk) -> Any:
    return desk.run(SPEC)


def test_what_was_planned_is_what_was_published(desk: Desk, job: Any) -> None:
    plan = desk.http.post("/api/v1/jobs:validate", json=SPEC).json()
    shapes = {layer["name"]: layer["shape"] for layer in plan["layers"]}
    assert (shapes["seen"], shapes["pool"], shapes["flatten.0"], shapes["unpool.0"]) == ([8, 8, 4], [4, 4, 4], [64], [8, 8, 4])
    assert plan["spec"]["regularizers"][0]["layers"] == ["seen", "inner", "code", "linear.1", "head.label", "head.input"]
    assert plan["spec"] == desk.http.post("/api/v1/jobs:validate", json=plan["spec"]).json()["spec"]
    shared = 4 * 4 * 9 + 4  # and matrices with 22 entries in each axis instead of 3 weights, the head's with 8 instead of 1
    unshared = 22**2 * (4 + 2 * 16) + 3 * 4 + 64 * 6 + 6 + 6 * 64 + 64 + 6 * 10 + 10 + 8 * 8 * 4 + 1
    assert (plan["saved_by_tying"], plan["unshared"]) == (shared, unshared)
    counted = {name: plan[name] for name in ("saved_by_tying", "unshared", "saved_by_sharing")}
    assert desk.report(job)["parameters"] == {"member": plan["parameters"], **counted}
    assert desk.model(job)["layers"] == plan["layers"]
    page = desk.http.get(f"/api/v1/models/{job['model']}/report.html").text
    assert f"{unshared:,} parameters without any sharing" in page


def test_it_is_asked_and_attacked_as_others_are(desk: Desk, job: Any) -> None:
    inputs, labels = desk.rows("digits", "image", 0, 3)
    found = desk.predict(job["model"], inputs, **{"members": "best", "return": ["code", "error"]})["targets"]
    assert np.array(found["input"]["code"]).shape[-1] == 6
    assert np.array(found["input"]["prediction"]).shape == (3, 8, 8)
    attack = {"inputs": inputs, "labels": labels, "attack": {"type": "pgd", "epsilon": 1.0, "steps": 2}}
    answer = desk.http.post(f"/api/v1/models/{job['model']}/attack", json=attack)
    assert answer.status_code == 200, answer.text


def test_its_files(desk: Desk, job: Any) -> None:
    files = f"/api/v1/models/{job['model']}/files"
    assert "residual" in desk.http.get(f"{files}/card.md").text
    assert desk.http.get(f"{files}/model.onnx").status_code == 200


def test_another_list_starts_from_layers_of_the_same_names(desk: Desk, job: Any) -> None:
    architecture = {"type": "layers", "layers": [*ENCODER, {"type": "batch_norm"}]}
    init = {"model": "spelled", "layers": ["seen", "inner"], "freeze": ["seen"]}
    tuned = desk.run({"name": "tuned", "dataset": "digits", "architecture": architecture, "init": init, "epochs": 1})
    assert desk.model(tuned)["spec"]["targets"][0]["task"] == "classification"
