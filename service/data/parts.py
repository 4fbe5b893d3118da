"""The part of every row, where a column or the file itself says it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.data.columns import PARTS_FILE, column_path
from service.data.fields import PARTS, Field
from service.errors import invalid
from service.flaws import cut

NAMES = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2, "testing": 2}


def from_column(folder: Path, fields: list[Field], split_column: str) -> dict[str, int]:
    """Write the parts that a column of `train`, `validation` and `test` gives; rows per part. Raises Invalid."""
    index = next(index for index, field in enumerate(fields) if field.name == split_column)
    field = fields[index]
    unknown = [value for value in field.values if value.lower() not in NAMES]
    if unknown or field.missing:
        wrong = cut(repr(unknown[0]), 40) if unknown else "an empty cell"
        raise invalid("/schema/split_column", "invalid-data", f"{wrong} in {split_column!r} is none of train, validation, test")
    lookup = np.array([NAMES[value.lower()] for value in field.values], dtype=np.int8)
    codes = np.load(column_path(folder, index), mmap_mode="r", allow_pickle=False)
    return write(folder, lookup[codes])


def write(folder: Path, parts: NDArray[np.int8]) -> dict[str, int]:
    """Keep the parts; rows per part, parts without rows left out. Raises Invalid without training rows."""
    counts = np.bincount(parts, minlength=len(PARTS)).tolist()
    if not counts[0]:
        raise invalid("/schema/split_column", "invalid-data", "the training part has no rows")
    np.save(folder / PARTS_FILE, parts, allow_pickle=False)
    return {part: count for part, count in zip(PARTS, counts, strict=True) if count}
