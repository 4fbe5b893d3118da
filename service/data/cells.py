"""Cells of text, and what they say: missing or numbers; and the order of classes."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MISSING = pa.array(["", "NA", "NaN"])


def known(cells: pa.Array) -> pa.Array:
    """The cells without surrounding spaces; null where empty, `NA` or `NaN`."""
    trimmed = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.is_in(trimmed, MISSING), pa.scalar(None, trimmed.type), trimmed)


def numbers(cells: pa.Array) -> NDArray[np.float64] | None:
    """What `known` cells say as float64 with NaN for null, or None where one is no number."""
    try:
        parsed = pc.cast(cells, pa.float64())
    except pa.ArrowInvalid:
        return None
    return np.asarray(parsed.to_numpy(zero_copy_only=False), dtype=np.float64)


def first_non_number(cells: pa.Array) -> int:
    """The position of the first of `known` cells that is no number."""
    return next(place for place in range(len(cells)) if numbers(cells.slice(place, 1)) is None)


def in_order(classes: list[str]) -> list[int]:
    """Positions of the classes sorted by value where all are numbers, else by code point."""
    values = [_number(text) for text in classes]
    if all(map(math.isfinite, values)):
        return sorted(range(len(classes)), key=lambda place: (values[place], classes[place]))
    return sorted(range(len(classes)), key=classes.__getitem__)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
