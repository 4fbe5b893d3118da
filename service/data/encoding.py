"""How a row becomes numbers: one rule for training and for every request."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Declared
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from service.blocks import blocks
from service.data.columns import Columns
from service.data.fields import Field
from service.values import ITEMS, Value

Values = NDArray[Any]
Rows = NDArray[np.int64]


class Features(Value):
    """Which columns of a table are inputs, and what becomes of categories and missing cells."""

    use: Annotated[tuple[str, ...], ITEMS] | None = None
    """The columns that are inputs; null: all that are left."""
    drop: Annotated[tuple[str, ...], ITEMS] | None = None
    """Columns that are no inputs."""
    max_categories: Annotated[int, Declared(ge=1, le=10_000)] = 100
    """Categories of a column that get a column of their own; rarer ones share one."""
    unknown: Literal["other", "error"] = "other"
    """What becomes of a category that training never saw."""
    missing: Literal["impute", "error"] = "impute"
    """Whether a missing value is imputed or refused."""
    weight: str | None = None
    """A column of sample weights, at least 0: the loss is the weighted mean of a batch. It is no input."""

    @model_validator(mode="after")
    def _one_list(self) -> "Features":
        if self.use is not None and self.drop is not None:
            raise PydanticCustomError("inconsistent-spec", "use and drop exclude each other", {"pointer": "/drop"})
        return self

    def select(self, fields: Sequence[Field]) -> tuple[Field, ...]:
        """The fields that stay."""
        if self.use is not None:
            return tuple(field for field in fields if field.name in self.use)
        return tuple(field for field in fields if field.name not in (*(self.drop or ()), self.weight))


class NumericInput(Value):
    """A number per row; `fill`, the training mean, stands in where it is missing, with an indicator if training knew such rows."""

    kind: Literal["numeric"] = "numeric"
    name: str
    fill: float
    indicator: bool
    low: float
    high: float

    @property
    def width(self) -> int:
        """Columns it becomes, its indicator among them."""
        return 1 + self.indicator


class CategoricalInput(Value):
    """One column per category, one for the others and one for missing cells where training had any."""

    kind: Literal["categorical", "boolean"] = "categorical"
    name: str
    categories: Annotated[tuple[str, ...], ITEMS]
    other: bool
    missing: bool

    @property
    def width(self) -> int:
        """Columns it becomes."""
        return len(self.categories) + self.other + self.missing

    def place(self, value: str | None) -> int:
        """The column of a value, -1 for none: an unknown category without a column for others is all zeros."""
        if value is None:
            return self.width - 1 if self.missing else -1
        if value in self.categories:
            return self.categories.index(value)
        return len(self.categories) if self.other else -1


class ArrayInput(Value):
    """A whole image or array per row, kept as it is."""

    kind: Literal["image", "tensor"]
    name: str
    shape: Annotated[tuple[int, ...], ITEMS]
    dtype: str
    low: float
    high: float
    fill: Annotated[tuple[float, ...], ITEMS] | None = None
    """The training mean of every entry, flat, where the array has missing ones."""

    def filled(self, x: Values) -> Values:
        """Rows with the mean in place of NaN; a copy if anything may be missing."""
        if self.fill is None:
            return x
        return np.where(np.isnan(x), np.asarray(self.fill, dtype=x.dtype).reshape(self.shape), x)


Input = Annotated[NumericInput | CategoricalInput | ArrayInput, Declared(discriminator="kind")]


class Encoding(Value):
    """The inputs in their order: numeric columns, then one-hot columns, then indicators; or a single array."""

    inputs: Annotated[tuple[Input, ...], ITEMS]
    unknown: Literal["other", "error"] = "other"
    missing: Literal["impute", "error"] = "impute"

    @property
    def array(self) -> ArrayInput | None:
        """The one array that is the input, or None for a table."""
        first = self.inputs[0] if self.inputs else None
        return first if isinstance(first, ArrayInput) else None

    @property
    def kind(self) -> str:
        """`table`, `image` or `tensor`."""
        return self.array.kind if self.array else "table"

    @property
    def numeric(self) -> tuple[NumericInput, ...]:
        """The numeric columns."""
        return tuple(column for column in self.inputs if isinstance(column, NumericInput))

    @property
    def categorical(self) -> tuple[CategoricalInput, ...]:
        """The categorical columns."""
        return tuple(column for column in self.inputs if isinstance(column, CategoricalInput))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one encoded row."""
        return self.array.shape if self.array else (sum(c.width for c in self.numeric) + sum(c.width for c in self.categorical),)

    @property
    def plain(self) -> int:
        """Columns at the end that are 0 or 1 and are not normalized."""
        return 0 if self.array else self.shape[0] - len(self.numeric)

    def table(self, numbers: Mapping[str, Values], places: Mapping[str, Values]) -> NDArray[np.float32]:
        """Encoded rows [N, F] from numeric columns (NaN missing) and from one-hot places (-1 none) by name."""
        rows = len(next(iter({**numbers, **places}.values())))
        encoded = np.zeros((rows, *self.shape), dtype=np.float32)
        at = len(self.numeric)
        for column in self.categorical:
            chosen = places[column.name]
            known = np.flatnonzero(chosen >= 0)
            encoded[known, at + chosen[known]] = 1.0
            at += column.width
        for i, number in enumerate(self.numeric):
            missing = np.isnan(numbers[number.name])
            encoded[:, i] = np.where(missing, number.fill, numbers[number.name])
            if number.indicator:
                encoded[:, at] = missing
                at += 1
        return encoded

    def read(self, columns: Columns) -> Values:
        """All rows of a stored dataset, encoded; an array stays memory-mapped and of its own type."""
        if self.array:
            return self.array.filled(columns.read(self.array.name))
        places = {}
        for column in self.categorical:
            values = columns.description.field(column.name).values
            # One more entry for the code -1 of missing cells, which indexes from the end.
            lookup = np.array([*(column.place(value) for value in values), column.place(None)], dtype=np.int64)
            places[column.name] = lookup[columns.read(column.name)]
        return self.table({column.name: columns.read(column.name) for column in self.numeric}, places)


def fit(columns: Columns, fields: Sequence[Field], train: Rows, features: Features) -> Encoding:
    """The encoding that the training rows call for."""
    inputs = tuple(_fit(columns, field, train, features) for field in fields)
    return Encoding(inputs=inputs, unknown=features.unknown, missing=features.missing)


def _fit(columns: Columns, field: Field, train: Rows, features: Features) -> Input:
    if field.kind in ("image", "tensor"):
        kind: Literal["image", "tensor"] = "image" if field.kind == "image" else "tensor"
        low, high = _extremes(columns.read(field.name), train)
        fill = tuple(_means(columns.read(field.name), train).ravel().tolist()) if field.missing else None
        return ArrayInput(kind=kind, name=field.name, shape=field.shape, dtype=field.dtype, low=low, high=high, fill=fill)
    values = columns.read(field.name)[train]
    if field.discrete:
        return _categorical(field, values, features.max_categories)
    known = values[~np.isnan(values)]
    mean, low, high = (float(known.mean()), float(known.min()), float(known.max())) if len(known) else (0.0, 0.0, 0.0)
    return NumericInput(name=field.name, fill=mean, indicator=len(known) < len(values), low=low, high=high)


def _categorical(field: Field, codes: Values, most: int) -> CategoricalInput:
    """The most frequent categories of the training rows, in the dataset's order."""
    counts = np.bincount(codes[codes >= 0], minlength=len(field.values))
    seen = np.flatnonzero(counts)
    kept = np.sort(seen[np.argsort(-counts[seen], kind="stable")[:most]])
    names = tuple(field.values[code] for code in kept)
    kind: Literal["categorical", "boolean"] = "boolean" if field.kind == "boolean" else "categorical"
    return CategoricalInput(kind=kind, name=field.name, categories=names, other=len(kept) < len(seen), missing=bool((codes < 0).any()))


def _extremes(x: Values, rows: Rows) -> tuple[float, float]:
    """Minimum and maximum over some rows, block by block."""
    low, high = np.inf, -np.inf
    for chosen in blocks(rows, x.itemsize * math.prod(x.shape[1:])):
        block = x[chosen]
        low, high = min(low, float(np.nanmin(block))), max(high, float(np.nanmax(block)))
    return low, high


def _means(x: Values, rows: Rows) -> NDArray[np.float64]:
    """The mean of every entry over some rows, missing ones left out; 0 where all are missing."""
    sums, counts = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for chosen in blocks(rows, 8 * math.prod(x.shape[1:])):
        block = x[chosen].astype(np.float64)
        sums, counts = sums + np.nansum(block, axis=0), counts + (~np.isnan(block)).sum(axis=0)
    return np.asarray(sums / np.maximum(counts, 1))


def expected_shape(fields: Sequence[Field], features: Features) -> tuple[int, ...]:
    """The shape of an encoded row as far as the description tells: training rows may miss a category or a gap."""
    if len(fields) == 1 and fields[0].kind in ("image", "tensor"):
        return fields[0].shape
    return (sum(_expected_width(field, features) for field in fields),)


def _expected_width(field: Field, features: Features) -> int:
    if field.discrete:
        return min(len(field.values), features.max_categories) + (len(field.values) > features.max_categories) + (field.missing > 0)
    return 1 + (field.missing > 0)
