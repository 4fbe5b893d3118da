"""What a dataset cannot give, splits above all, is refused when the job is posted, not when it runs."""

from typing import Any

import httpx2
import pytest

ROWS = 24


@pytest.fixture(scope="module")
def dataset(http: httpx2.Client) -> str:
    """Rows with two patients, four sites, a number that is different in every row, and a column that is left out."""
    lines = [f"{row},{row % 2},s{row % 4},x,{row * 7 % 11}" for row in range(ROWS)]
    content = "\n".join(["day,patient,site,left,y", *lines]).encode()
    schema = '{"targets": ["y"], "fields": {"left": {"kind": "ignore"}, "y": {"kind": "numeric"}}}'
    answer = http.post("/api/v1/datasets", files={"file": ("rows.csv", content), "name": (None, "rows"), "schema": (None, schema)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "two groups, three parts": ({"group": "patient"}, "/split", "too few groups"),
    "one group left": ({"group": "patient", "test_rows": list(range(0, ROWS, 2)), "validation": 0.2}, "/split", "too few groups"),
    "a group torn apart": ({"group": "site", "test_rows": [0, 4], "validation": 0.2}, "/split", "share a group"),
    "an ignored column": ({"group": "left"}, "/split/group", "ignored"),
    "ignored times": ({"time": "left"}, "/split/time", "ignored"),
    "no row to train on": ({"validation": 0.5, "test": 0.5}, "/split", "no training row"),
}


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/jobs:validate"])
@pytest.mark.parametrize("name", REFUSED)
def test_splits_that_cannot_be_drawn(http: httpx2.Client, dataset: str, name: str, path: str) -> None:
    split, pointer, words = REFUSED[name]
    answer = http.post(path, json={"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, "split": split})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/inconsistent-spec"), answer.text
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, "inconsistent-spec")
    assert words in error["message"]


def test_numbers_may_be_too_many_for_classes(http: httpx2.Client) -> None:
    content = "\n".join(["a,y", *(f"{row % 7},{row}" for row in range(10_001))]).encode()
    assert http.post("/api/v1/datasets", files={"file": ("many.csv", content), "name": (None, "many")}).status_code == 201
    spec = {"dataset": "many", "architecture": {"type": "mlp", "hidden": []}, "targets": [{"name": "y", "task": "classification"}]}
    answer = http.post("/api/v1/jobs:validate", json=spec)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/inconsistent-spec"), answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/targets/0/task"]


@pytest.mark.parametrize("weights", [{"s0": 0, "s1": 0, "s2": 0, "s3": 0}, {"s0": 0, "s1": 0, "s2": 0, "s3": 1e-60}], ids=str)
def test_some_class_counts(http: httpx2.Client, dataset: str, weights: dict[str, float]) -> None:
    """A class that is left out counts 1; weights that are nothing in float32 are none."""
    for given, refused in ((weights, True), (dict.fromkeys(list(weights)[:3], 0), False)):
        spec = {"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, "targets": [{"name": "site", "class_weights": given}]}
        answer = http.post("/api/v1/jobs:validate", json=spec)
        assert answer.status_code == (422 if refused else 200), answer.text
        if refused:
            assert [(e["pointer"], e["code"]) for e in answer.json()["errors"]] == [("/targets/0/class_weights", "inconsistent-spec")]


def test_a_head_of_quantiles_is_not_said_to_learn_a_mean(http: httpx2.Client, dataset: str) -> None:
    spec = {"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, "targets": [{"name": "y", "loss": "quantile"}],
            "adversarial_training": {"method": "trades", "epsilon": 0.1}}  # fmt: skip
    answer = http.post("/api/v1/jobs:validate", json=spec)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/adversarial_training/method"
    assert "no distribution" in error["message"]
    assert "mean alone" not in error["message"]


def test_a_plan_counts_the_rows_of_whole_groups(http: httpx2.Client, dataset: str) -> None:
    """A third of the rows are asked for; two of four sites make a half, and six rows are a site."""
    split = {"group": "site", "validation": 0.0, "test": 0.33}
    spec = {"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, "split": split, "batch_size": 4, "epochs": 1}
    plan = http.post("/api/v1/jobs:validate", json=spec).json()
    assert plan["steps"] == 3
