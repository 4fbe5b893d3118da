"""Boxes of encoded rows: where an attack may move them, in whose unit, and what a missing field looks like."""

from typing import Any

import torch
from torch import Tensor

from service.data.encoding import ArrayInput, Encoding, NumericInput
from service.errors import invalid
from service.flaws import pointer
from service.inference.model import Model
from service.nets.intervals import Interval
from service.tricks.attacks import AnyAttack, Box, Corruption, UniformNoise

Pair = tuple[float, float]


def box_of(attack: AnyAttack, encoding: Encoding, *, where: str = "/attack") -> Box:
    """Bounds and movable entries of encoded rows; `"data"` is what the training rows spanned; raises Invalid."""
    if isinstance(attack, Corruption):
        return _corruption_box(attack, encoding, where)
    _check_names(attack.bounds if isinstance(attack.bounds, dict) else {}, encoding, f"{where}/bounds")
    array = encoding.array
    if array is not None:
        if attack.immutable:
            raise invalid(f"{where}/immutable", "inconsistent-spec", "an image has no fields to keep")
        bounds = _pair(attack.bounds, array)
        return Box() if bounds is None else Box(torch.tensor(bounds[0]), torch.tensor(bounds[1]))
    return _table_box(attack, encoding, where)


def _table_box(attack: Any, encoding: Encoding, where: str) -> Box:
    """Numeric columns move within their own bounds; categories and indicators stay."""
    names = [number.name for number in encoding.numeric]
    known = [number.name for number in encoding.inputs]
    for i, name in enumerate(attack.immutable):
        if name not in known:
            raise invalid(f"{where}/immutable/{i}", "inconsistent-spec", f"there is no field {name!r}; there are {', '.join(known)}")
    movable = torch.zeros(encoding.shape)
    movable[: len(names)] = torch.tensor([float(name not in attack.immutable) for name in names])
    if attack.bounds is None:
        return Box(movable=movable)
    low, high = torch.zeros(encoding.shape), torch.ones(encoding.shape)
    for i, number in enumerate(encoding.numeric):
        low[i], high[i] = _pair(attack.bounds, number) or (number.low, number.high)
    return Box(low, high, movable)


def _pair(bounds: Any, column: NumericInput | ArrayInput) -> Pair | None:
    """The bounds of one column or array; None: anywhere."""
    if isinstance(bounds, dict):
        low, high = bounds.get(column.name, (column.low, column.high))
        return low, high
    return (column.low, column.high) if bounds == "data" else None if bounds is None else (bounds[0], bounds[1])


def _check_names(bounds: dict[str, Any], encoding: Encoding, where: str) -> None:
    known = [column.name for column in encoding.inputs if isinstance(column, NumericInput | ArrayInput)]
    for name in bounds:
        if name not in known:
            here = f"{where}{pointer(name)}"
            raise invalid(here, "inconsistent-spec", f"there is no numeric field {name!r}; there are {', '.join(known)}")


def _corruption_box(corruption: Corruption, encoding: Encoding, where: str) -> Box:
    """The training rows' range of a picture, and what missing entries look like."""
    array = encoding.array
    if corruption.pictures_only and (array is None or len(array.shape) < 2):
        raise invalid(f"{where}/type", "inconsistent-spec", "this corruption needs an image; a table knows missing")
    if array is not None:
        count = torch.Size(array.shape).numel()
        fields = torch.arange(count).view(array.shape)
        return Box(torch.tensor(array.low), torch.tensor(array.high), blank=torch.full(array.shape, array.low), fields=fields)
    blank, fields = missing_row(encoding)
    return Box(blank=blank, fields=fields)


def missing_row(encoding: Encoding) -> tuple[Tensor, Tensor]:
    """A table's row of which all is missing, and the number of the field that each of its entries belongs to, [F] both."""
    blank, fields = torch.zeros(encoding.shape), torch.zeros(encoding.shape, dtype=torch.int64)
    at = len(encoding.numeric)
    for i, category in enumerate(encoding.categorical):
        fields[at : at + category.width] = len(encoding.numeric) + i
        if category.place(None) >= 0:
            blank[at + category.place(None)] = 1.0
        at += category.width
    for i, number in enumerate(encoding.numeric):
        blank[i], fields[i] = number.fill, i
        if number.indicator:
            blank[at], fields[at] = 1.0, i
            at += 1
    return blank, fields


def placed(attack: AnyAttack, model: Model, *, where: str = "/attack") -> Box:
    """The box for a model's rows, with what one unit of epsilon is; raises Invalid where the attack does not suit the model."""
    box = box_of(attack, model.encoding, where=where)
    if isinstance(attack, Corruption) or attack.unit == "raw":
        return box
    if model.spec.preprocessing.normalize != "standard":
        raise invalid(f"{where}/unit", "inconsistent-spec", "the model knows no standard deviations: it was not normalized by them")
    return Box(box.low, box.high, box.movable, unit=model.networks[0].preprocess.scale)


def trained_box(encoding: Encoding, device: torch.device) -> Box:
    """Where bounded training lets rows go: numbers within what the training rows spanned, nothing else."""
    box = box_of(UniformNoise(epsilon=0.0), encoding)
    return Box(*(None if part is None else part.to(device) for part in (box.low, box.high, box.movable)))


def reach(x: Tensor, epsilon: float, box: Box) -> Interval:
    """All rows within epsilon of rows x [N, ...] in linf, as a box allows; of l2 and l1 that holds the ball too."""
    far = torch.full_like(x, epsilon) if box.unit is None else epsilon * box.unit.to(x).expand_as(x)
    return Interval.between(box.apply(x, -far), box.apply(x, far))


def bounds_used(attack: AnyAttack, encoding: Encoding) -> Any:
    """The bounds in force, by field; null for none."""
    if isinstance(attack, Corruption):
        return None
    columns = [column for column in encoding.inputs if isinstance(column, NumericInput | ArrayInput)]
    if attack.bounds is None or isinstance(attack.bounds, tuple):
        return None if attack.bounds is None else list(attack.bounds)
    return {column.name: list(_pair(attack.bounds, column) or ()) for column in columns}
