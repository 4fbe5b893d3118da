"""Rows of a request as a network's inputs; each value that cannot be read is a flaw with its pointer."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.data.encoding import ArrayInput, CategoricalInput, Encoding, Input
from service.data.labels import number_text
from service.errors import Flaw, Invalid, TooLarge, invalid
from service.flaws import cut, pointer, quoted
from service.inference.image_text import image

MOST_FLAWS = 20
NUMBERS: set[type] = {int, float}
NUMBERS_OR_NULL = NUMBERS | {type(None)}
MISSING = ("", "NA", "NaN")
"""What a file's cell says when it says nothing."""
Floats = NDArray[np.float32]


def read_rows(inputs: Any, encoding: Encoding, *, most: int, where: str = "/inputs") -> Floats:
    """Encoded rows [N, ...] of the list `inputs`: arrays in the signature's order, or objects by field name."""
    if not isinstance(inputs, list):
        raise invalid(where, "wrong-type", "inputs are a list of rows")
    if not inputs:
        raise invalid(where, "value-out-of-range", "there is no row")
    if len(inputs) > most:
        raise TooLarge(f"{len(inputs)} rows; one answer has at most {most}.", slug="cost-limit")
    if encoding.array:
        rows = [_unwrapped(row, encoding.array, f"{where}/{i}") for i, row in enumerate(inputs)]
        kinds = NUMBERS if encoding.array.fill is None else NUMBERS_OR_NULL
        return finite(encoding.array.filled(numbers(rows, encoding.shape, where, kinds)), where)
    if not encoding.categorical and all(type(row) is list for row in inputs) and not _gaps(inputs):
        plain = finite(numbers(inputs, (len(encoding.inputs),), where, NUMBERS), where)
        return encoding.table({column.name: plain[:, i].astype(np.float64) for i, column in enumerate(encoding.inputs)}, {})
    return _table(inputs, encoding, where)


def _unwrapped(row: Any, expected: ArrayInput, where: str) -> Any:
    """The array of a row, given as an object of its one field or as an image's text."""
    name = expected.name
    if isinstance(row, dict):
        strange = [key for key in row if key != name]
        if strange or not row:
            code = "unknown-field" if strange else "missing-field"
            raise invalid(where + pointer(*(strange or [name])[:1]), code, f"the only field is {name!r}")
    if isinstance(row, dict):
        where, row = where + pointer(name), row[name]
    return image(row, expected, where) if isinstance(row, str) else row


def _gaps(rows: list[list[Any]]) -> bool:
    return any(None in row for row in rows)


@np.errstate(over="ignore")
def numbers(rows: list[Any], shape: tuple[int, ...], where: str, kinds: set[type]) -> Floats:
    """Rows of values of these kinds, each of `shape` nested or flat; null becomes NaN, what float32 cannot hold infinite."""
    encoded = np.empty((len(rows), *shape), dtype=np.float32)
    flaws: list[Flaw] = []
    for i, row in enumerate(rows):
        if isinstance(row, np.ndarray):  # an image, whose shape was looked at
            encoded[i] = row
            continue
        flaw = _flaw(row, shape, kinds, pointer=f"{where}/{i}")
        if flaw is None:
            encoded[i] = np.asarray(row, dtype=np.float64).reshape(shape)
        else:
            flaws.append(flaw)
            if len(flaws) == MOST_FLAWS:
                break
    if flaws:
        raise Invalid(flaws)
    return encoded


def _flaw(row: Any, shape: tuple[int, ...], kinds: set[type], *, pointer: str) -> Flaw | None:
    """What keeps a row from being an array of this shape, nested or flat row-major."""
    size = math.prod(shape)
    if not isinstance(row, list):
        return Flaw(pointer, "wrong-type", f"a row is a list of {size} numbers, flat or nested as {list(shape)}")
    if len(row) == size and (len(shape) == 1 or not isinstance(row[0], list)):
        return _entries(row, kinds, pointer)
    if len(shape) == 1 or len(row) != shape[0]:
        return Flaw(pointer, "shape-mismatch", f"{len(row)} values; expected {size} numbers, flat or nested as {list(shape)}")
    for i, inner in enumerate(row):
        flaw = _flaw(inner, shape[1:], kinds, pointer=f"{pointer}/{i}")
        if flaw is not None:
            return flaw
    return None


def _entries(values: list[Any], kinds: set[type], where: str) -> Flaw | None:
    if set(map(type, values)) <= kinds:
        return None
    i = next(i for i, value in enumerate(values) if type(value) not in kinds)
    return Flaw(f"{where}/{i}", "wrong-type", f"a number is needed, not {quoted(values[i])}")


def finite(encoded: Floats, where: str) -> Floats:
    """The rows, unless a number is too large for float32."""
    if np.isfinite(encoded).all():
        return encoded
    row = int(np.argwhere(~np.isfinite(encoded))[0][0])
    raise invalid(f"{where}/{row}", "non-finite", "a number is beyond the range of float32")


def _table(inputs: list[Any], encoding: Encoding, where: str) -> Floats:
    """Rows of a table with categories or gaps, value by value."""
    flaws: list[Flaw] = []
    values = {column.name: np.full(len(inputs), np.nan) for column in encoding.numeric}
    places = {column.name: np.full(len(inputs), -1) for column in encoding.categorical}
    for i, row in enumerate(inputs):
        try:
            named = _named(row, encoding, f"{where}/{i}")
            for column, (place, value) in zip(encoding.inputs, named, strict=True):
                read = _value(value, column, encoding, place)
                (places if isinstance(column, CategoricalInput) else values)[column.name][i] = read
        except Invalid as error:
            flaws.extend(error.flaws)
            if len(flaws) >= MOST_FLAWS:
                break
    if flaws:
        raise Invalid(flaws[:MOST_FLAWS])
    return finite(encoding.table(values, places), where)


def _named(row: Any, encoding: Encoding, where: str) -> list[tuple[str, Any]]:
    """The row's values in the signature's order, each with its pointer."""
    names = [column.name for column in encoding.inputs]
    if isinstance(row, list):
        if len(row) != len(names):
            raise invalid(where, "shape-mismatch", f"{len(row)} values; expected {len(names)}: {', '.join(names)}")
        return [(f"{where}/{i}", value) for i, value in enumerate(row)]
    if not isinstance(row, Mapping):
        raise invalid(where, "wrong-type", "a row is a list of values or an object by field name")
    flaws = [
        Flaw(where + pointer(name), "unknown-field", f"there is no such field; there are {', '.join(names)}")
        for name in row
        if name not in names
    ]
    flaws += [
        Flaw(where + pointer(name), "missing-field", "this field is required; null says that it is missing")
        for name in names
        if name not in row
    ]
    if flaws:
        raise Invalid(flaws[:MOST_FLAWS])
    return [(where + pointer(name), row[name]) for name in names]


def _value(value: Any, column: Input, encoding: Encoding, where: str) -> float:
    """A number, or the place of a category; NaN and -1 for a missing one."""
    if (value is None or (isinstance(column, CategoricalInput) and value in MISSING)) and encoding.missing == "error":
        raise invalid(where, "missing-value", f"{column.name!r} must not be missing")
    if isinstance(column, CategoricalInput):
        text = category_text(value)
        if text is not None and column.kind == "boolean":
            text = text.lower()
        if isinstance(value, str) and value in MISSING:
            text = value = None
        if text is None and value is not None:
            raise invalid(where, "wrong-type", "a category is a string, a number or a boolean")
        if text is not None and text not in column.categories and encoding.unknown == "error":
            known = ", ".join(column.categories[:20])
            raise invalid(where, "unknown-category", f"{cut(repr(text), 40)} is none of {known}")
        return column.place(text)
    if value is None:
        return float("nan")
    if type(value) not in NUMBERS:
        raise invalid(where, "wrong-type", f"a number is needed, not {quoted(value)}")
    return float(value)


def category_text(value: Any) -> str | None:
    """A category as the dataset writes it; None for what is no category."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return number_text(value) if isinstance(value, int | float) else None
