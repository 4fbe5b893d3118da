"""Reconstructions as answers: in the form of the rows that were sent, with each row's error and code."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from service.data.encoding import CategoricalInput, Encoding
from service.errors import invalid
from service.inference.model import Model
from service.inference.pools import Numbers
from service.tricks.modes import Axes
from service.tricks.reconstruction import errors

Column = list[Any]


def numeric(values: Tensor | None, encoding: Encoding) -> Column | None:
    """Entries [.., D] in the form of a row: arrays nested, tables in the signature's order with null for what is no number."""
    if values is None:
        return None
    if encoding.array:
        return list(values.unflatten(-1, encoding.array.shape).tolist())
    places = {column.name: i for i, column in enumerate(encoding.numeric)}
    return _rows(values.tolist(), [places.get(column.name) for column in encoding.inputs])


def _rows(values: Any, places: Sequence[int | None]) -> Column:
    """The chosen entries of the innermost lists."""
    if values and isinstance(values[0], list):
        return [_rows(inner, places) for inner in values]
    return [None if place is None else values[place] for place in places]


def decoded(values: Tensor, encoding: Encoding) -> Column:
    """Encoded rows [N, D] as a request would send them: of a category its most likely value, null for one missing or rare."""
    shown = numeric(values, encoding) or []
    at = len(encoding.numeric)
    places = {column.name: place for place, column in enumerate(encoding.inputs)}
    for column in encoding.categorical:
        for row, likeliest in zip(shown, _likeliest(values[:, at : at + column.width], column), strict=True):
            row[places[column.name]] = likeliest
        at += column.width
    return shown


def _likeliest(block: Tensor, column: CategoricalInput) -> list[str | None]:
    """By row the category whose column is largest."""
    if not column.width:
        return [None] * len(block)
    return [column.categories[i] if i < len(column.categories) else None for i in block.argmax(-1).tolist()]


def row_errors(answer: Numbers, model: Model, x: Tensor, place: int) -> Tensor:
    """Squared errors [N] of rows x in the inputs' own unit, means over entries; the target is at that place."""
    std = model.networks[0].units[place].std.double()
    return errors(answer.mean, x.flatten(1).double(), std)[1]


@torch.inference_mode()
def codes(model: Model, x: Tensor, axes: Axes) -> Column:
    """The codes [N, F] of rows, weight-scaled, of the one member that is asked."""
    found = model.networks[axes.members[0]].code(x)
    wrong = (~found.isfinite()).any(-1).nonzero()
    if len(wrong):
        raise invalid(f"/inputs/{int(wrong[0])}", "non-finite", "the code of this row is beyond the range of the network's numbers")
    return list(found.tolist())
