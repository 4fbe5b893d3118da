"""Pictures of two classes, upright and flat bars on noise, and archives of them."""

import io
import zipfile

import numpy as np
from PIL import Image

SIDE = 8
LABELS = ("flat", "upright")


def drawn(label: str, stream: np.random.Generator) -> bytes:
    """A bar on noise: upright or flat."""
    pixels = stream.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
    at = int(stream.integers(0, SIDE))
    where = (slice(None), at) if label == "upright" else (at, slice(None))
    pixels[where] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def zipped(stream: np.random.Generator, *, train: int, test: int) -> bytes:
    """A ZIP of class folders below `train` and `test` with so many pictures of each class."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for part, count in (("train", train), ("test", test)):
            for label in LABELS:
                for i in range(count):
                    made.writestr(f"bars/{part}/{label}/{i:03d}.png", drawn(label, stream))
    return archive.getvalue()
