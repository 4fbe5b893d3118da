"""An ensemble of convolutional networks over HTTP: pictures in a ZIP, every way to be asked, attacked, and its trainers killed."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.system.desk import Desk
from tests.system.pictures import drawn, zipped

# What is trained does not depend on where rows and messages lie.
pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")
SPEC: dict[str, Any] = {
    "name": "striped", "dataset": "striped", "batch_size": 16, "epochs": 12, "early_stopping": None, "checkpoint_interval_s": 0,
    "architecture": {"type": "cnn", "channels": [8, 8], "hidden": [16], "dropout": {"channel": 0.1, "hidden": 0.3}},
    "ensemble": {"size": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """An upright bar and a flat one that no dataset has."""
    stream = np.random.default_rng(1)
    return [drawn("upright", stream), drawn("flat", stream)]


@pytest.fixture(scope="module")
def job(desk: Desk) -> Any:
    content = zipped(np.random.default_rng(0), train=40, test=10)
    sent = desk.http.post("/api/v1/datasets", files={"file": ("striped.zip", content, "application/zip")}, data={"name": "striped"})
    assert sent.status_code == 201, sent.text
    return desk.run(SPEC)


def test_it_learns_and_says_what_it_is(desk: Desk, job: Any) -> None:
    model = desk.model(job)
    assert model["members"] == 2
    assert [layer["type"] for layer in model["layers"]] == ["convolution", "convolution", "linear", "linear"]
    assert model["metrics"]["splits"]["test"]["accuracy"] > 0.9


def test_arrays_and_encoded_pictures_are_the_same_rows(desk: Desk, job: Any, pictures: list[bytes]) -> None:
    arrays = [np.asarray(Image.open(io.BytesIO(picture))).tolist() for picture in pictures]
    said = desk.predict(job["model"], [base64.b64encode(picture).decode() for picture in pictures])
    assert said["mode"] == "ensemble"
    assert said["targets"]["label"]["prediction"] == ["upright", "flat"]
    assert desk.predict(job["model"], [{"image": arrays[0]}, arrays[1]])["targets"] == said["targets"]


def test_masks_of_channels_are_drawn_and_averaged(desk: Desk, job: Any, pictures: list[bytes]) -> None:
    rows, asked = [base64.b64encode(picture).decode() for picture in pictures], {"mode": "monte_carlo", "samples": 20}
    wanted = {"return": ["probabilities", "members"]}
    one, same, other = (desk.predict(job["model"], rows, **asked, **wanted, seed=seed)["targets"]["label"] for seed in (1, 1, 2))
    assert one == same
    assert one["probabilities"] != other["probabilities"]
    members = np.array(one["members"])
    assert members.shape == (2, 20, 2)
    assert members.std(axis=1).max() > 1e-3, "masks differ"
    np.testing.assert_allclose(members.mean(axis=1), one["probabilities"], rtol=1e-5)


def test_an_attack_stays_in_its_ball_and_takes_the_answer(desk: Desk, job: Any, pictures: list[bytes]) -> None:
    arrays = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
    attack = {"type": "pgd", "epsilon": 90.0, "steps": 10}
    body = {"inputs": [array.tolist() for array in arrays], "labels": ["upright", "flat"], "attack": attack}
    answer = desk.http.post(f"/api/v1/models/{job['model']}/attack", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["success"] == [True, True]
    moved = np.array(found["inputs"])
    assert max(found["perturbation"]["linf"]) <= 90.0 * (1 + 1e-6)
    np.testing.assert_allclose(np.abs(moved - np.stack(arrays)).max((1, 2, 3)), found["perturbation"]["linf"], rtol=1e-5)
    assert desk.predict(job["model"], moved.tolist())["targets"]["label"]["prediction"] == ["flat", "upright"]


def test_killed_trainers_end_with_the_same_bytes(desk: Desk, job: Any, killer: Callable[[], int]) -> None:
    spec = {**SPEC, "epochs": 60}
    undisturbed = desk.model(desk.run({**spec, "name": "straight"}))
    hit, kills = desk.post({**spec, "name": "killed"}), 0
    for share in (0.1, 0.4):
        hit = desk.wait(hit, until=lambda hit, share=share: bool(hit["done"] or (hit["progress"]["fraction"] > share)))
        kills += killer() if not hit["done"] else 0
    hit = desk.wait(hit)
    assert hit["state"] == "succeeded", hit["error"]
    assert kills >= 1
    assert "resumed at epoch" in desk.http.get(f"/api/v1/jobs/{hit['id']}/logs").text
    assert desk.model(hit)["sha256"] == undisturbed["sha256"]
