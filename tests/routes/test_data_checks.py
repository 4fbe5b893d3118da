"""What a dataset cannot give, splits above all, is refused when the job is posted, not when it runs."""

from typing import Any

import httpx2
import numpy as np
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


def test_numbers_that_no_network_can_hold(http: httpx2.Client) -> None:
    content = "\n".join(["a,b,y", *(f"{row},{row}e300,{row}e200" for row in range(ROWS))]).encode()
    answer = http.post("/api/v1/datasets", files={"file": ("far.csv", content), "name": (None, "far")})
    assert answer.status_code == 201, answer.text
    assert answer.json()["fields"][1]["std"] == pytest.approx(1e300 * np.arange(ROWS).std())
    spec = {"dataset": "far", "architecture": {"type": "mlp", "hidden": []}}
    errors = http.post("/api/v1/jobs", json=spec).json()["errors"]
    assert [(error["pointer"], error["code"]) for error in errors] == [("/targets/0/name", "invalid-data"), ("/features", "invalid-data")]
    content = "\n".join(["a,b,y", *(f"{row},{row}e35,{row}e36" for row in range(ROWS))]).encode()
    assert http.post("/api/v1/datasets", files={"file": ("far.csv", content), "name": (None, "far")}).status_code == 201
    assert http.post("/api/v1/jobs:validate", json=spec).status_code == 200


@pytest.mark.parametrize("wrong", [{"s9": 1.0, "s0": 2.0, "a/b": 1.0}, {"s0": 1.0, "s1": "much"}], ids=str)
def test_a_class_that_is_wrong_is_pointed_at(http: httpx2.Client, dataset: str, wrong: dict[str, Any]) -> None:
    spec = {"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, "targets": [{"name": "site", "class_weights": wrong}]}
    answer = http.post("/api/v1/jobs:validate", json=spec)
    assert answer.status_code == 422, answer.text
    expected = {"/targets/0/class_weights/s9", "/targets/0/class_weights/a~1b"} if "s9" in wrong else {"/targets/0/class_weights/s1"}
    assert {error["pointer"] for error in answer.json()["errors"]} == expected


@pytest.fixture(scope="module")
def gappy(http: httpx2.Client) -> str:
    """Rows of which 0 to 7 have no label of any target, 8 to 15 one class and one number, and 0 to 11 no weight."""
    lines = [
        f"{row},{'' if row < 8 else 'ab'[row % 2 * (row > 15)]},{'' if row < 8 else max(row, 15)},{int(row > 11)}" for row in range(ROWS)
    ]
    content = "\n".join(["x,kind,size,weight", *lines]).encode()
    assert http.post("/api/v1/datasets", files={"file": ("gappy.csv", content), "name": (None, "gappy")}).status_code == 201
    return "gappy"


KIND, SIZE = {"name": "kind"}, {"name": "size"}
BLANK, SAME, OTHERS = list(range(8)), list(range(8, 16)), list(range(16, ROWS))
UNLABELLED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no label to validate on": ({"split": {"validation_rows": BLANK}, "targets": [KIND]}, "/early_stopping/monitor", "'kind'"),
    "no number to validate on": ({"split": {"validation_rows": BLANK}, "targets": [SIZE]}, "/early_stopping/monitor", "loss is not"),
    "one of two targets": (
        {"split": {"validation_rows": BLANK}, "targets": [{"name": "x"}, SIZE], "features": {"use": ["weight"]}},
        "/early_stopping/monitor",
        "8 validation rows",
    ),
    "one class": (
        {"split": {"validation_rows": SAME}, "targets": [KIND], "early_stopping": {"monitor": "auroc"}},
        "/early_stopping/monitor",
        "one class",
    ),
    "one number": (
        {"split": {"validation_rows": SAME}, "targets": [SIZE], "early_stopping": {"monitor": "size.r2"}},
        "/early_stopping/monitor",
        "same one",
    ),
    "one row": (
        {"split": {"validation_rows": [20]}, "targets": [SIZE], "early_stopping": {"monitor": "r2"}},
        "/early_stopping/monitor",
        "1 validation rows",
    ),
    "classes that weigh nothing": (
        {"split": {"validation_rows": SAME}, "targets": [{**KIND, "class_weights": {"a": 0}}]},
        "/early_stopping/monitor",
        "weigh 0",
    ),
    "nothing to learn from": (
        {"split": {"test_rows": SAME + OTHERS}, "targets": [KIND]}, "/targets/0/name", "none of them has a label of 'kind'",
    ),
    "nothing to learn from, by weight": (
        {"split": {"test_rows": list(range(12, ROWS))}, "targets": [{"name": "x"}], "features": {"weight": "weight"}},
        "/features/weight",
        "0 in all",
    ),
    "nothing to select by": (
        {"split": {"validation_rows": BLANK}, "targets": [KIND], "early_stopping": None, "ensemble": {"size": 2, "selection": "greedy"}},
        "/ensemble/selection",
        "loss is not defined",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLABELLED)
def test_rows_without_the_labels_that_are_asked_of_them(http: httpx2.Client, gappy: str, name: str) -> None:
    change, pointer, words = UNLABELLED[name]
    answer = http.post("/api/v1/jobs", json={"dataset": gappy, "architecture": {"type": "mlp", "hidden": []}, **change})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert words in error["message"]


def test_what_is_not_asked_of_rows_they_need_not_have(http: httpx2.Client, gappy: str) -> None:
    """A missing label beside others, one class where nobody asks for two, and no label at all in the test part."""
    for change in (
        {"split": {"validation_rows": [0, 8]}, "targets": [KIND]},
        {"split": {"validation_rows": SAME}, "targets": [KIND], "early_stopping": {"monitor": "accuracy"}},
        {"split": {"validation_rows": SAME, "test_rows": BLANK}, "targets": [KIND, SIZE], "early_stopping": {"monitor": "size.rmse"}},
        {"split": {"validation_rows": BLANK}, "targets": [KIND], "early_stopping": None},
    ):
        answer = http.post("/api/v1/jobs:validate", json={"dataset": gappy, "architecture": {"type": "mlp", "hidden": []}, **change})
        assert answer.status_code == 200, answer.text


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
