"""A folder of pictures goes in as a ZIP, and pictures are asked about as base64."""

import base64
import io
import zipfile
from typing import Any

import numpy as np
from PIL import Image

from tests.system.desk import Desk

SIDE, EACH = 8, 40


def drawn(label: str, stream: np.random.Generator) -> bytes:
    """A bar on noise: upright or flat."""
    pixels = stream.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
    at = int(stream.integers(0, SIDE))
    where = (slice(None), at) if label == "upright" else (at, slice(None))
    pixels[where] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_pictures_from_zip_to_prediction(desk: Desk) -> None:
    stream, archive = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for part, count in (("train", EACH), ("test", EACH // 4)):
            for label in ("flat", "upright"):
                for i in range(count):
                    made.writestr(f"bars/{part}/{label}/{i:03d}.png", drawn(label, stream))
    sent = desk.http.post("/api/v1/datasets", files={"file": ("bars.zip", archive.getvalue(), "application/zip")}, data={"name": "bars"})
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
