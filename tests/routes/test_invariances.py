"""What a dataset declares of its rows bounds the transforms of a job, when it is posted."""

import io
import json
from typing import Any

import httpx2
import numpy as np
import pytest

ROWS = 24
DECLARED = {"rotation_degrees": 20, "translation_pixels": 2, "horizontal_flip": True}


@pytest.fixture(scope="module")
def datasets(http: httpx2.Client) -> dict[str, str]:
    """Arrays of several shapes, with and without a declaration."""
    shapes = {"silent": (6, 6), "declared": (6, 6), "colour": (6, 5, 3), "flat": (36,), "video": (2, 3, 3, 2)}
    for name, shape in shapes.items():
        content = io.BytesIO()
        np.savez(content, x=np.random.default_rng(0).normal(size=(ROWS, *shape)).astype(np.float32), y=np.arange(ROWS) % 2)
        parts: dict[str, Any] = {"file": (f"{name}.npz", content.getvalue()), "name": (None, name)}
        if name == "declared":
            parts["schema"] = (None, json.dumps({"invariances": DECLARED}))
        answer = http.post("/api/v1/datasets", files=parts)
        assert answer.status_code == 201, answer.text
    return {name: name for name in shapes}


def validated(http: httpx2.Client, dataset: str, *transforms: dict[str, Any]) -> httpx2.Response:
    spec = {"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, "augmentation": list(transforms)}
    return http.post("/api/v1/jobs:validate", json=spec)


ROTATE, SHIFT, FLIP = {"type": "rotate", "degrees": 20.0}, {"type": "translate", "pixels": 2}, {"type": "flip", "axis": "horizontal"}
UPSIDE_DOWN = {"type": "flip", "axis": "vertical"}
FREE = [{"type": "gaussian_noise", "std": 1.0}, {"type": "scale"}, {"type": "cutout", "size": 2}, {"type": "mixup"}, {"type": "cutmix"}]


def test_what_is_declared_is_taken_without_a_word(http: httpx2.Client, datasets: dict[str, str]) -> None:
    answer = validated(http, "declared", ROTATE, SHIFT, FLIP, *FREE)
    assert (answer.status_code, answer.json()["warnings"]) == (200, []), answer.text
    assert validated(http, "digits", {"type": "rotate", "degrees": 10.0}).json()["warnings"] == []


@pytest.mark.parametrize("dataset", ["silent", "colour"])
def test_what_is_not_declared_is_warned_of(http: httpx2.Client, datasets: dict[str, str], dataset: str) -> None:
    answer = validated(http, dataset, *FREE, ROTATE, SHIFT, FLIP)
    assert answer.status_code == 200, answer.text
    warnings = [(warning["pointer"], warning["code"]) for warning in answer.json()["warnings"]]
    assert warnings == [(f"/augmentation/{place}", "undeclared-invariance") for place in ("5/degrees", "6/pixels", "7/axis")]
    (warning,) = validated(http, "declared", UPSIDE_DOWN).json()["warnings"]
    assert (warning["pointer"], warning["code"]) == ("/augmentation/0/axis", "undeclared-invariance")


@pytest.mark.parametrize(
    ("dataset", "transform", "field"),
    [
        ("declared", {"type": "rotate", "degrees": 20.1}, "degrees"),
        ("declared", {"type": "translate", "pixels": 3}, "pixels"),
        ("digits", {"type": "rotate", "degrees": 180.0}, "degrees"),
        ("digits", {"type": "translate", "pixels": 2}, "pixels"),
        ("digits", FLIP, "axis"),
        ("digits", UPSIDE_DOWN, "axis"),
    ],
)
def test_what_breaks_a_declaration_is_refused_at_the_value(
    http: httpx2.Client, datasets: dict[str, str], dataset: str, transform: dict[str, Any], field: str
) -> None:
    answer = validated(http, dataset, {"type": "mixup"}, transform)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/breaks-invariance"), answer.text
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (f"/augmentation/1/{field}", "breaks-invariance")


@pytest.mark.parametrize("dataset", ["flat", "video", "diabetes"])
@pytest.mark.parametrize("transform", [ROTATE, SHIFT, FLIP, *FREE[1:3], FREE[4]], ids=lambda each: each["type"])
def test_images_transforms_need_images(http: httpx2.Client, datasets: dict[str, str], dataset: str, transform: dict[str, Any]) -> None:
    answer = validated(http, dataset, transform)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/inconsistent-spec"), answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/augmentation/0/type"]
    assert validated(http, dataset, FREE[0], FREE[3]).json()["warnings"] == []
