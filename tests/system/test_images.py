"""A folder of pictures goes in as a ZIP, and pictures are asked about as base64."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from tests.system.desk import Desk
from tests.system.pictures import drawn, zipped

EACH = 40


def test_pictures_from_zip_to_prediction(desk: Desk) -> None:
    stream = np.random.default_rng(0)
    content = zipped(stream, train=EACH, test=EACH // 4)
    sent = desk.http.post("/api/v1/datasets", files={"file": ("bars.zip", content, "application/zip")}, data={"name": "bars"})
    assert sent.status_code == 201, sent.text
    dataset = sent.json()
    assert (dataset["format"], dataset["splits"]) == ("images", {"train": 2 * EACH, "test": 2 * (EACH // 4)})
    job = desk.run({"name": "bars", "dataset": "bars", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 60, "batch_size": 16})
    model = desk.model(job)
    assert model["spec"]["split"] == "given"
    assert model["metrics"]["splits"]["test"]["accuracy"] > 0.8
    pictures = [drawn("upright", stream), drawn("flat", stream)]
    rows: list[Any] = [base64.b64encode(picture).decode() for picture in pictures]
    arrays = [np.asarray(Image.open(io.BytesIO(picture))).tolist() for picture in pictures]
    said, again = desk.predict("bars", rows), desk.predict("bars", [{"image": arrays[0]}, arrays[1]])
    assert said["targets"] == again["targets"]
    assert said["targets"]["label"]["prediction"] == ["upright", "flat"]
