"""Client and command line against the whole running service."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from temper import Client
from temper.embedded.launch import Launch
from temper.errors import Conflict, Invalid, JobCancelled, NotFound, WaitTimeout

SPEC = {"name": "quick", "dataset": "digits", "architecture": {"type": "mlp", "hidden": [16]}, "epochs": 3}
ENDLESS = {**SPEC, "name": "endless", "epochs": 100_000, "early_stopping": None}


@pytest.fixture(scope="module")
def client(service: Launch) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


def temper(service: Launch, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TEMPER_URL": service.url, "TEMPER_DATA": str(service.data)}
    command = [sys.executable, "-m", "temper", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=250, env=environment)


def test_the_demo_shows_what_it_found(service: Launch) -> None:
    answer = temper(service, "demo")
    assert answer.returncode == 0, answer.stderr
    for words in (
        "mlp 64-128-128-10",
        "5 members bagged",
        "succeeded in",
        "ensemble 0.9",
        "predict row 17 -> 7",
        "FGSM",
        "report ",
        "curl ",
    ):
        assert words in answer.stdout
    for word in answer.stdout.split():
        if "/reports/" in word:
            assert Path(word.removeprefix("@")).stat().st_size > 0


def test_from_a_spec_to_predictions_and_attacks(client: Client) -> None:
    job = client.jobs.create(SPEC)
    assert job.wait(timeout=240).state == "succeeded"
    series = job.metrics(name="validation.loss")
    assert series["epoch"].tolist() == [1, 2, 3]
    drawing = ET.fromstring(job._repr_html_() or "")
    assert [line.get("points", "").count(",") for line in drawing.iter("{http://www.w3.org/2000/svg}polyline")] == [3, 3]
    model = job.model()
    assert (model.name, client.models.get("quick").id) == ("quick", model.id)
    rows = np.array([row["values"]["image"] for row in client.datasets.get("digits").head(4)])
    prediction = model.predict(rows)
    assert prediction.probabilities.shape == (4, 10)
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1, atol=1e-6)
    flat = model.predict(rows.reshape(4, 64), mode="single")
    np.testing.assert_array_equal(flat.probabilities, prediction.probabilities)
    attacked = model.attack(rows, ["0", "1", "2", "3"], {"type": "fgsm", "epsilon": 1.0})
    assert attacked.inputs.shape == rows.shape
    assert np.abs(attacked.inputs - rows).max() <= 1.0 + 1e-5


def test_uploads_are_datasets(client: Client, tmp_path: Path) -> None:
    lines = ["size,colour,price", *(f"{size},{'red' if size % 2 else 'blue'},{2 * size + 1}" for size in range(40))]
    (tmp_path / "wares.csv").write_text("\n".join(lines))
    data = client.datasets.upload(tmp_path / "wares.csv")
    assert (data.name, data.rows, client.datasets.get("wares").id) == ("wares", 40, data.id)
    assert [field["kind"] for field in data.fields] == ["numeric", "categorical", "numeric"]
    assert data.head(1)[0]["values"] == {"size": 0.0, "colour": "blue", "price": 1.0}
    data.delete()
    with pytest.raises(NotFound):
        client.datasets.get("wares")


def test_errors_are_typed(client: Client) -> None:
    with pytest.raises(Invalid) as caught:
        client.jobs.create({"dataset": "digits", "architecture": {"type": "mlp", "hidden": [0]}})
    assert caught.value.flaws[0].pointer == "/architecture/hidden/0"
    with pytest.raises(NotFound):
        client.models.get("nothing-of-that-name")
    job = client.jobs.create(ENDLESS)
    with pytest.raises(WaitTimeout):
        job.wait(timeout=1)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(timeout=120)
    with pytest.raises(Conflict):
        job.stop()


def test_commands_and_their_exit_codes(service: Launch) -> None:
    answer = temper(service, "train", "-", "-o", "json", text=json.dumps(SPEC))
    assert answer.returncode == 0, answer.stderr
    (job,) = json.loads(answer.stdout)
    assert job["state"] == "succeeded"
    assert job["id"] in temper(service, "jobs", "-o", "ids").stdout.split()
    assert temper(service, "logs", job["id"]).returncode == 0
    assert temper(service, "models", "-o", "csv").stdout.startswith("id,name,version")
    assert "digits" in temper(service, "datasets").stdout
    predicted = temper(service, "predict", "quick", "--dataset", "digits", "--rows", "3:6", "-o", "csv").stdout.splitlines()
    assert predicted[0] == "row,label,label probability"
    assert len(predicted) == 4
    attacked = temper(service, "attack", "quick", "--dataset", "digits", "--rows", "3:6", "-o", "json")
    assert len(json.loads(attacked.stdout)["success"]) == 3
    assert temper(service, "watch", "job_none").returncode == 1
    assert temper(service, "train", "-", text="{}").returncode == 2
    endless = temper(service, "train", "-", "--timeout", "1", text=json.dumps(ENDLESS))
    assert endless.returncode == 4
    name = endless.stderr.split()[0]
    assert temper(service, "cancel", name).returncode == 0
    assert temper(service, "watch", name).returncode == 3


def test_projections_are_listed_and_kept_in_a_file(service: Launch, client: Client, tmp_path: Path) -> None:
    spec = {"name": "seen", "dataset": "digits", "architecture": {"type": "cnn", "channels": [4], "hidden": []}, "epochs": 1}
    client.jobs.create(spec).wait(timeout=240)
    asked = ("project", "seen", "conv.0", "--dataset", "digits", "--rows", "3:5")
    lines = temper(service, *asked, "--strongest", "2", "--to", str(tmp_path / "seen"), "-o", "csv").stdout.splitlines()
    assert lines[0] == "row,channel,place,value"
    assert len(lines) == 1 + 2 * 2
    kept = np.load(tmp_path / "seen")
    rows = np.array([row["values"]["image"] for row in client.datasets.get("digits").head(2, offset=3)])
    found = client.models.get("seen").project(rows, "conv.0", strongest=2)
    for name in ("channels", "places", "values", "projections"):
        np.testing.assert_array_equal(kept[name], getattr(found, name))
    plain = json.loads(temper(service, *asked, "--channel", "3", "--channel", "1", "--no-rectify", "--member", "0", "-o", "json").stdout)
    assert np.shape(plain["projections"]) == (2, 2, 8, 8)
    assert plain["channels"] == [[3, 1], [3, 1]]
    dense = temper(service, "project", "seen", "head.label", "--dataset", "digits")
    assert dense.returncode != 0
    assert "/layer" in dense.stderr


def test_doctor_finds_nothing_to_mend(service: Launch) -> None:
    answer = temper(service, "doctor")
    assert answer.returncode == 0, answer.stdout
    assert f"{service.url} is ready" in answer.stdout
