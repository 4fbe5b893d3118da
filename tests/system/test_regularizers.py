"""Gates, sharing and fine-tuning as a user has them: posted, trained, published smaller, asked, started from."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors import deserialize

from tests.system.desk import Desk

GATED: dict[str, Any] = {
    "name": "gated",
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [24, 16]},
    "regularizers": [{"type": "l0", "alpha": 0.003}],
    "optimizer": {"type": "adam", "learning_rate": 0.03},
    "epochs": 12,
    "early_stopping": None,  # the best epoch may be one in which no gate is closed yet
    "ensemble": {"size": 2},
}
SHARED: dict[str, Any] = {
    "name": "shared",
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [16, 16, 16]},
    "regularizers": [{"type": "share", "layers": ["hidden.1", "hidden.2"], "parameters": "all"}],
    "epochs": 3,
}


@pytest.fixture(scope="module")
def gated(desk: Desk) -> Any:
    return desk.run(GATED)


@pytest.fixture(scope="module")
def shared(desk: Desk) -> Any:
    return desk.run(SHARED)


def tensors(desk: Desk, job: Any) -> dict[str, Any]:
    content = desk.http.get(f"/api/v1/models/{job['model']}/files/model.safetensors").content
    return dict(deserialize(content))


def test_closed_gates_are_not_published(desk: Desk, gated: Any) -> None:
    report, model = desk.report(gated), desk.model(gated)
    widths = [layer["shape"][0] for layer in model["layers"]]
    kept = max(report["gates"]["hidden.0"]["open"])
    assert 0 < kept < 64
    assert report["gates"]["hidden.1"]["inputs"] == 24
    found = tensors(desk, gated)
    assert not [name for name in found if "log_alpha" in name]
    assert found["members.0.trunk.hidden.0.linear.weight"]["shape"] == [widths[0], kept]
    assert report["sparsity"]["hidden.0"] >= 1 - kept / 64
    assert report["splits"]["test"]["accuracy"] > 0.8
    inputs, _ = desk.rows("digits", "image", 0, 5)
    members = [np.array(desk.predict(gated["model"], inputs, members=i)["targets"]["label"]["probabilities"]) for i in range(2)]
    both = np.array(desk.predict(gated["model"], inputs)["targets"]["label"]["probabilities"])
    np.testing.assert_allclose(both, np.mean(members, axis=0), atol=1e-6)
    series = desk.http.get(f"/api/v1/jobs/{gated['id']}/metrics", params={"member": 0, "name": "sparsity.hidden.0"}).json()["value"]
    assert series[0] == 0 < series[-1]


def test_what_is_shared_is_published_once(desk: Desk, shared: Any) -> None:
    plan = desk.http.post("/api/v1/jobs:validate", json=SHARED).json()
    assert plan["saved_by_tying"] == 16 * 16 + 16
    counted = {"saved_by_tying": 16 * 16 + 16, "unshared": plan["unshared"], "saved_by_sharing": 16 * 16 + 16}
    assert desk.report(shared)["parameters"] == {"member": plan["parameters"], **counted}
    content = desk.http.get(f"/api/v1/models/{shared['model']}/files/model.safetensors").content
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    aliases = json.loads(head["__metadata__"]["temper"])["aliases"]
    assert set(aliases) == {f"members.0.trunk.hidden.2.linear.{part}" for part in ("weight", "bias")}
    assert not set(aliases) & set(head)
    assert set(aliases.values()) <= set(head)
    inputs, _ = desk.rows("digits", "image", 0, 3)
    assert desk.predict(shared["model"], inputs)["targets"]["label"]["prediction"]


def test_a_job_starts_from_a_stored_model_and_keeps_it(desk: Desk, shared: Any) -> None:
    refer = {"model": "shared", "layer": "hidden.0"}
    spec = {
        **SHARED,
        "name": "tuned",
        "regularizers": [{"type": "tie", "between": ["hidden.0", refer], "alpha": 10.0}],
        "init": {"model": "shared:1", "layers": ["hidden.*"], "freeze": ["hidden.1", "hidden.2"]},
        "ensemble": {"size": 2},
    }
    job = desk.run(spec)
    resolved = desk.model(job)["spec"]
    assert resolved["init"]["model"] == resolved["regularizers"][0]["between"][1]["model"] == shared["model"]
    before, after = tensors(desk, shared), tensors(desk, job)
    for member in range(2):
        for name in ("hidden.1", "hidden.2"):
            assert after[f"members.{member}.trunk.{name}.linear.weight"]["data"] == before["members.0.trunk.hidden.1.linear.weight"]["data"]
        key = f"members.{member}.trunk.hidden.0.linear.weight"
        moved, start = (np.frombuffer(each["data"], np.float32) for each in (after[key], before["members.0.trunk.hidden.0.linear.weight"]))
        assert 0 < np.abs(moved - start).max() < 0.1
    assert desk.report(job)["penalties"]["tie"] > 0
    refused = desk.http.post("/api/v1/jobs", json={**spec, "init": {"model": "nobody"}})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/init/model")
    wide = {**SHARED, "regularizers": [], "architecture": {"type": "mlp", "hidden": [20]}, "init": {"model": "shared"}}
    refused = desk.http.post("/api/v1/jobs", json=wide)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/inconsistent-spec")


def test_a_model_that_a_job_needs_cannot_be_deleted(desk: Desk, shared: Any) -> None:
    job = desk.post({**SHARED, "name": "long", "regularizers": [], "epochs": 100_000, "early_stopping": None, "init": {"model": "shared"}})
    refused = desk.http.delete(f"/api/v1/models/{shared['model']}")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/model-in-use")
    desk.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    desk.wait(job)
    assert desk.http.delete(f"/api/v1/models/{shared['model']}").status_code == 204
