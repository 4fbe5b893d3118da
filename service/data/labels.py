"""Targets as numbers: class indices with -1 for missing, or float rows with NaN for missing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.data.columns import Columns
from service.data.fields import Field

MOST_CLASSES = 10_000


def classes_of(columns: Columns, field: Field) -> tuple[str, ...]:
    """The classes of a target in the order of their indices; a numeric column has its distinct values."""
    if field.classes is not None:
        return field.values
    return tuple(number_text(value) for value in _distinct(columns, field))


def labels_of(columns: Columns, field: Field) -> NDArray[np.int64]:
    """Class indices [N] of a classification target."""
    values = columns.read(field.name)
    if field.discrete:
        return values.astype(np.int64)
    return np.where(np.isnan(values), -1, np.searchsorted(_distinct(columns, field), values)).astype(np.int64)


def numbers_of(columns: Columns, field: Field) -> NDArray[np.float64]:
    """Rows [N, D] of a regression target."""
    values = columns.read(field.name)
    return values.reshape(len(values), -1).astype(np.float64)


def number_text(value: float) -> str:
    """A number as a class is written: without a fraction where there is none."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _distinct(columns: Columns, field: Field) -> NDArray[Any]:
    values = np.unique(columns.read(field.name))
    known: NDArray[Any] = values[~np.isnan(values)]
    return known
