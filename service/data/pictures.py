"""PNG and JPEG as arrays, from bytes that a stranger wrote."""

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from zlib import error as zlib_error

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import DecompressionBombError

from service.data.columns import Values
from service.errors import TooLarge, invalid

FORMATS = ("PNG", "JPEG")
GREY = ("1", "L")
COLOUR = ("P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
BROKEN = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, zlib_error, zipfile.BadZipFile, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What libraries raise over bytes that are not what they claim to be."""


@contextmanager
def opened(file: IO[bytes], *, most_pixels: int) -> Iterator[Image.Image]:
    """An image whose header was read and no pixel yet; raises Invalid with the pointer "", and TooLarge.

    Truncated images, several frames, more than 8 bits a channel and other formats are refused.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at here
        try:
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > most_pixels:
                message = f"An image has {image.width} x {image.height} pixels; at most {most_pixels} are read."
                raise TooLarge(message, slug="decompressed-too-large")
            yield image
        except DecompressionBombError as error:
            raise TooLarge("An image has too many pixels.", slug="decompressed-too-large") from error
        except BROKEN as error:
            raise invalid("", "corrupt-file", "it is no whole PNG or JPEG") from error


def decode(content: bytes, *, channels: int | None, most_pixels: int) -> Values:
    """uint8 [H, W], or [H, W, channels]; what is transparent is laid on black unless there are four channels. Raises as `opened`."""
    with opened(io.BytesIO(content), most_pixels=most_pixels) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise invalid("", "invalid-data", "it has several frames")
        if image.mode not in (*GREY, *COLOUR):
            raise invalid("", "invalid-data", f"its pixels are of the kind {image.mode}; 8 bits a channel are read")
        image.load()
        return _array(image, channels)


def _array(image: Image.Image, channels: int | None) -> Values:
    if channels == 4:
        return np.asarray(image.convert("RGBA"), dtype=np.uint8)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"), dtype=np.uint8)
    return pixels[..., np.newaxis] if channels == 1 else pixels
