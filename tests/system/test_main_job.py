"""The main job over HTTP: a dataset goes in, predictions and a robustness check come out."""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.inference import bags
from service.inference.asking import ask
from service.inference.model import FILES, from_files
from service.inference.pools import Classes
from service.inference.rows import read_rows
from service.tricks.modes import Asking
from tests.system.desk import Desk

EXAMPLE: dict[str, Any] = {
    "kind": "train",
    "name": "example",
    "dataset": "digits",
    "split": {"validation": 0.15, "test": 0.15, "stratify": True, "seed": 0},
    "targets": [{"name": "label", "task": "classification", "weight": 1.0}],
    "preprocessing": {"normalize": "standard"},
    "architecture": {"type": "mlp", "hidden": [32, 32], "activation": "relu", "dropout": {"input": 0.2, "hidden": 0.5}},
    "regularizers": [{"type": "l2", "alpha": 1e-4}, {"type": "l1", "alpha": 1e-5, "layers": ["hidden.0"]}],
    "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
    "adversarial_training": {"method": "fgsm", "epsilon": 1.0, "weight": 0.5},
    "ensemble": {"size": 3, "bootstrap": True},
    "optimizer": {"type": "adam", "learning_rate": 1e-3},
    "schedule": {"type": "cosine"},
    "epochs": 25,
    "batch_size": 64,
    "early_stopping": {"monitor": "loss", "patience": 10, "min_delta": 0.0, "then": "restore_best"},
    "seed": 0,
    "device": "auto",
    "priority": 0,
}
"""api.md's example, smaller."""


@pytest.fixture(scope="module")
def job(desk: Desk) -> dict[str, Any]:
    return desk.run(EXAMPLE)


def test_the_job_ends_with_a_model_that_echoes_its_spec(desk: Desk, job: dict[str, Any]) -> None:
    assert job["done"]
    assert job["stop_reason"] == "epochs"
    assert job["progress"]["fraction"] == 1.0
    model = desk.model(job)
    assert model["name"] == "example"
    assert model["members"] == 3
    assert model["parameters"] == 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10
    assert [layer["name"] for layer in model["layers"]] == ["hidden.0", "hidden.1", "head.label"]
    for name, value in EXAMPLE.items():
        if name not in ("targets", "split", "regularizers", "augmentation", "architecture"):
            assert {**model["spec"][name], **value} == model["spec"][name] if isinstance(value, dict) else model["spec"][name] == value


def test_the_report_has_its_keys_and_the_ensemble_formula_holds(desk: Desk, job: dict[str, Any]) -> None:
    report = desk.report(job)
    assert {"splits", "modes", "members", "early_stopping", "ensemble", "dropout", "calibration", "normalization", "sparsity", "penalties",
            "confusion_matrix", "invariance", "robustness"} <= {*report}  # fmt: skip
    assert {*report["modes"]} == {"single", "weight_scaled", "monte_carlo", "ensemble"}
    assert report["splits"]["test"] == report["modes"]["ensemble"]
    ensemble = report["ensemble"]
    assert ensemble["k"] == 3
    assert ensemble["error"] == "brier"
    assert ensemble["predicted_error"] == pytest.approx(ensemble["measured_error"], rel=1e-9)
    assert ensemble["measured_error"] == pytest.approx(report["modes"]["ensemble"]["brier"], rel=1e-6)
    assert ensemble["mean_member_error"] - ensemble["ambiguity"] == pytest.approx(ensemble["measured_error"], rel=1e-9)
    assert ensemble["mean_member_error"] == pytest.approx(np.mean([member["brier"] for member in report["members"]]), rel=1e-6)
    assert report["modes"]["ensemble"]["accuracy"] > 0.8
    assert sum(map(sum, report["confusion_matrix"]["matrix"])) == 270
    assert report["modes"]["single"] == report["modes"]["weight_scaled"]
    assert 0 < report["invariance"]["gaussian_noise"] < 0.1
    assert [point["sigma"] for point in report["noise"]["by_sigma"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert report["noise"]["by_sigma"][0]["value"] > report["noise"]["by_sigma"][-1]["value"]


def test_the_rows_of_bagged_members_and_the_pictures_of_averages_are_handed_out(desk: Desk, job: dict[str, Any]) -> None:
    model, ensemble = desk.model(job), desk.report(job)["ensemble"]
    rows = bags.rows_of(desk.http.get(model["links"]["bagging.safetensors"]).raise_for_status().content)
    assert [*rows] == [0, 1, 2]
    assert {len(own) for own in rows.values()} == {1257}, "as many as training rows"
    seen_by_all = set.intersection(*({*own.tolist()} for own in rows.values()))
    assert ensemble["out_of_bag_rows"]["excluded"] == len(seen_by_all)
    assert ensemble["out_of_bag_rows"]["rows"] == 1257 - len(seen_by_all)
    assert ensemble["cost"]["training_steps"]["ensemble"] == 3 * 25 * 20
    for name in ("ensemble.svg", "dropout.svg", "augmentation.svg"):
        picture = desk.http.get(model["links"][name]).raise_for_status()
        assert picture.headers["content-type"] == "image/svg+xml"
    way = desk.report(job)["dropout"]["convergence"]["by_samples"]
    assert way[-1]["predicted_deviation"] == pytest.approx(way[0]["predicted_deviation"] / 10, rel=1e-9)


def test_the_same_spec_gives_the_same_bytes(desk: Desk, job: dict[str, Any]) -> None:
    again = desk.model(desk.run(EXAMPLE))
    first = desk.model(job)
    assert again["sha256"] == first["sha256"]
    assert again["version"] == first["version"] + 1
    other = desk.model(desk.run({**EXAMPLE, "seed": 1, "epochs": 2, "name": "other"}))
    assert other["sha256"] != first["sha256"]


def test_single_equals_weight_scaled_bit_by_bit(desk: Desk, job: dict[str, Any]) -> None:
    inputs, _ = desk.rows("digits", "image", 0, 50)
    single, scaled = (desk.predict(job["model"], inputs, mode=mode)["targets"]["label"] for mode in ("single", "weight_scaled"))
    assert single == scaled


@pytest.mark.parametrize("mode", ["single", "monte_carlo", "ensemble"])
def test_a_row_answers_alike_alone_and_in_a_batch(desk: Desk, job: dict[str, Any], mode: str) -> None:
    inputs, _ = desk.rows("digits", "image", 100, 64)
    batch = desk.predict(job["model"], inputs, mode=mode, samples=20)["targets"]["label"]["probabilities"]
    for row in (0, 17, 63):
        (alone,) = desk.predict(job["model"], [inputs[row]], mode=mode, samples=20)["targets"]["label"]["probabilities"]
        assert np.abs(np.array(alone) - np.array(batch[row])).max() <= 1e-5


def test_uncertainty_is_null_where_one_network_cannot_know_it(desk: Desk, job: dict[str, Any]) -> None:
    inputs, _ = desk.rows("digits", "image", 0, 3)
    one = desk.predict(job["model"], inputs, mode="single")["targets"]["label"]["uncertainty"]
    assert one["epistemic"] is None
    assert one["agreement"] is None
    assert one["aleatoric"] == one["total"]
    many = desk.predict(job["model"], inputs, **{"return": ["uncertainty", "members"]})["targets"]["label"]
    total, aleatoric, epistemic = (np.array(many["uncertainty"][name]) for name in ("total", "aleatoric", "epistemic"))
    assert np.allclose(total - aleatoric, epistemic)
    assert (epistemic >= -1e-12).all()
    members = np.array(many["members"])
    assert members.shape == (3, 3, 10)
    p = members.mean(axis=1)
    assert np.allclose(total, -(p * np.log(p)).sum(-1), atol=1e-6)


def test_an_attack_at_once_stays_in_its_ball_and_its_bounds(desk: Desk, job: dict[str, Any]) -> None:
    inputs, labels = desk.rows("digits", "image", 0, 20)
    body = {"inputs": inputs, "labels": labels, "attack": {"type": "pgd", "epsilon": 2.0, "steps": 5}}
    answer = desk.http.post(f"/api/v1/models/{job['model']}/attack", json=body).json()
    moved = np.array(answer["inputs"])
    assert np.abs(moved - np.array(inputs)).max() <= 2.0
    assert moved.min() >= 0
    assert moved.max() <= 16
    target = answer["targets"]["label"]
    for success, before, after, label in zip(
        answer["success"], target["clean"]["prediction"], target["adversarial"]["prediction"], labels, strict=True
    ):
        assert success is (None if before != label else after != label)
    assert answer["attack"]["bounds"] == {"image": [0.0, 16.0]}
    none = desk.http.post(f"/api/v1/models/{job['model']}/attack", json={**body, "attack": {"type": "pgd", "epsilon": 0}}).json()
    assert none["inputs"] == inputs
    assert not any(none["success"])


def test_a_robustness_job_tells_curves_worst_case_and_checks(desk: Desk, job: dict[str, Any]) -> None:
    attacks = [{"type": "gaussian_noise"}, {"type": "fgsm"}, {"type": "pgd", "steps": 10}]
    spec = {"kind": "robustness", "model": job["model"], "attacks": attacks, "epsilons": [0, 0.5, 2], "rows": 100}
    result = desk.run(spec)["result"]
    assert result["rows"] == 100
    assert len(result["attacks"]) == 3
    for attack in result["attacks"]:
        assert attack["curve"][0]["accuracy"] == result["clean"]["accuracy"]
        assert all(point["low"] <= point["accuracy"] <= point["high"] for point in attack["curve"])
    worst = [point["accuracy"] for point in result["worst_case"]]
    assert worst == sorted(worst, reverse=True)
    assert all(w <= attack["curve"][i]["accuracy"] for i, w in enumerate(worst) for attack in result["attacks"])
    broken = result["per_row"]["broken_at"]
    assert sum(epsilon is None for epsilon in broken) == round(worst[-1] * 100)
    assert len(result["checks"]) == 9
    assert result["reliable"] is (not result["reasons"])
    assert result["reasons"] == [each["name"] for each in result["checks"] if not each["passed"]]
    for at, by, length, near in zip(
        *(result["per_row"][name] for name in ("broken_at", "broken_by", "perturbation", "nearest_other")), strict=True
    ):
        assert (by is None) == (length is None) == (near is None)
        assert by is None or (by in {"gaussian_noise", "fgsm", "pgd"} and length > 0 and near > 0 and at > 0)
    assert desk.report(job)["robustness"] == result
    picture = desk.http.get(f"/api/v1/models/{job['model']}/plots/robustness.svg")
    assert picture.status_code == 200
    assert b'id="worst-case"' in picture.content
    assert len(picture.content) == result["picture"]["size"]
    page = desk.http.get(f"/api/v1/models/{job['model']}/report.html")
    assert "it takes a robustness job" not in page.text
    assert base64.b64encode(picture.content).decode() in page.text
    assert f"{result['checks'][0]['name']}: {result['checks'][0]['message']}" in html.unescape(page.text)
    again = desk.http.get(f"/api/v1/models/{job['model']}/report.html", headers={"If-None-Match": page.headers["ETag"]})
    assert again.status_code == 304


def test_an_alias_is_guarded_by_accuracy_and_robust_accuracy(desk: Desk, job: dict[str, Any]) -> None:
    desk.run({"kind": "robustness", "model": job["model"], "attacks": [{"type": "pgd", "loss": "margin"}], "epsilons": [0.25], "rows": 50})
    model = desk.http.get(f"/api/v1/models/{job['model']}").json()
    result = desk.report(job)["robustness"]
    alias = f"/api/v1/models/{model['name']}/aliases/guarded"
    wanted = {"accuracy": {"min": 0.5}, "robust_accuracy": {"min": 0.0, "epsilon": 0.25, "dataset": "digits"}}
    answer = desk.http.put(alias, json={"version": model["version"], "require": wanted})
    assert answer.status_code == (200 if result["reliable"] is not False else 409), answer.text
    more = {**wanted, "robust_accuracy": {"min": 1.0, "epsilon": 0.25}}
    shut = desk.http.put(alias, json={"version": model["version"], "require": more})
    assert (shut.status_code, shut.json()["type"]) == (409, "/problems/alias-gate-failed")
    for require, pointer in (
        ({"speed": {"min": 1}}, "/require/speed"), ({"accuracy": {}}, "/require/accuracy/min"),
        ({"robust_accuracy": {"min": 0.5, "epsilon": 1, "dataset": "nowhere"}}, "/require/robust_accuracy/dataset"),
    ):  # fmt: skip
        wrong = desk.http.put(alias, json={"version": model["version"], "require": require})
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, pointer), wrong.text
    assert desk.http.delete(alias).status_code in (200, 404)


def test_regression_answers_in_the_targets_own_unit(desk: Desk) -> None:
    spec = {
        "name": "progression",
        "dataset": "diabetes",
        "architecture": {"type": "mlp", "hidden": [16]},
        "targets": [{"name": "target", "task": "regression", "loss": "gaussian_nll"}],
        "ensemble": {"size": 2},
        "epochs": 40,
    }
    job = desk.run(spec)
    report = desk.report(job)
    assert 40 < report["splits"]["test"]["rmse"] < 75
    assert report["ensemble"]["error"] == "mse"
    assert report["ensemble"]["predicted_error"] == pytest.approx(report["ensemble"]["measured_error"])
    assert report["splits"]["test"]["mse"] == pytest.approx(report["ensemble"]["measured_error"], rel=1e-6)
    row = {"age": 59, "sex": 2, "bmi": 32.1, "bp": 101, "s1": 157, "s2": 93.2, "s3": 38, "s4": 4, "s5": 4.8598, "s6": 87}
    asked = ["uncertainty", "interval", "members"]
    by_name = desk.predict("progression", [row], **{"return": asked})["targets"]["target"]
    by_place = desk.predict("progression", [[*row.values()]], **{"return": asked})["targets"]["target"]
    assert by_name == by_place
    assert 50 < by_name["prediction"][0] < 350
    spread = by_name["uncertainty"]
    assert spread["std"][0] ** 2 == pytest.approx(spread["aleatoric_std"][0] ** 2 + spread["epistemic_std"][0] ** 2)
    interval = by_name["interval"]
    assert interval["upper"][0] - interval["lower"][0] == pytest.approx(2 * 1.6448536 * spread["std"][0], rel=1e-6)
    assert np.array(by_name["members"]["prediction"]).shape == (1, 2)


def fruit(i: int) -> str:
    size = "" if i % 10 == 0 else i % 7
    return f"{'red' if i % 3 else 'green'},{size},{'true' if i % 2 else 'false'},{'yes' if (i % 3 and i % 7 > 2) else 'no'}"


CSV = "\n".join(["colour,size,ripe,good", *map(fruit, range(200))])


def test_a_table_with_categories_and_gaps_is_read_alike_in_training_and_requests(desk: Desk) -> None:
    upload = desk.http.post("/api/v1/datasets", files={"file": ("fruit.csv", CSV, "text/csv")}, data={"name": "fruit"})
    assert upload.status_code == 201, upload.text
    kinds = {field["name"]: field["kind"] for field in upload.json()["fields"]}
    assert kinds == {"colour": "categorical", "size": "numeric", "ripe": "boolean", "good": "categorical"}
    job = desk.run(
        {
            "dataset": "fruit",
            "architecture": {"type": "mlp", "hidden": [32]},
            "epochs": 60,
            "optimizer": {"type": "adam", "learning_rate": 0.01},
        }
    )
    rows = [
        {"colour": "red", "size": 5, "ripe": True},
        {"colour": "green", "size": 5, "ripe": "true"},
        {"colour": "red", "size": None, "ripe": False},
    ]
    answer = desk.predict(job["model"], rows)["targets"]["good"]
    assert answer["prediction"][:2] == ["yes", "no"]
    assert answer["classes"] == ["no", "yes"]
    unknown = desk.http.post(
        f"/api/v1/models/{job['model']}/predict", json={"inputs": [rows[0], {"colour": "red", "size": "big", "ripe": True}]}
    )
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["pointer"] == "/inputs/1/size"


def test_the_files_rebuild_the_model(desk: Desk, job: dict[str, Any], tmp_path: Path) -> None:
    files = {name: desk.http.get(f"/api/v1/models/{job['model']}/files/{name}").content for name in FILES}
    model = from_files(files.__getitem__)
    assert json.loads(files["spec.json"]) == desk.model(job)["spec"]
    inputs, _ = desk.rows("digits", "image", 0, 5)
    p = ask(model, torch.from_numpy(read_rows(inputs, model.encoding, most=10)), Asking().axes(model))["label"]
    assert isinstance(p, Classes)
    served = desk.predict(job["model"], inputs)["targets"]["label"]["probabilities"]
    assert np.abs(p.probabilities.numpy() - np.array(served)).max() < 1e-6
    header = json.loads(files["model.safetensors"][8 : 8 + int.from_bytes(files["model.safetensors"][:8], "little")])
    assert {*header["__metadata__"]} == {"temper"}
    assert all(re.fullmatch(r"(preprocess|scales\.\d+|members\.\d+\.(trunk|heads))\..+", name) for name in header if name != "__metadata__")
