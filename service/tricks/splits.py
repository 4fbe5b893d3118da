"""Splits: which rows train, which validate, which test; fixed by the spec and the data alone."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from service.errors import invalid
from service.seeds import derive
from service.tricks.choices import Only
from service.values import ITEMS, Seed, Value

Share = Annotated[float, Field(ge=0, lt=1)]
RowNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], ITEMS]
Rows = NDArray[np.int64]


class Parts(NamedTuple):
    """Row numbers of each part, ascending."""

    train: Rows
    validation: Rows
    test: Rows


class Split(Value):
    """Fractions of the rows not named by lists, or lists; an object naming no part makes both at .15."""

    validation: Share | None = None
    """Share of the rows for validation."""
    test: Share | None = None
    """Share of the rows for test."""
    validation_rows: RowNumbers | None = None
    """Numbers of the validation rows."""
    test_rows: RowNumbers | None = None
    """Numbers of the test rows."""
    group: str | None = None
    """A column of which no value is in two parts."""
    time: str | None = None
    """A numeric column: the newest rows are the test part."""
    stratify: bool = True
    """Whether each part has the classes in proportion."""
    seed: Seed = 0
    """Of the random choice."""
    calibration: Annotated[float, Only(0.0)] = 0.0
    """Share of the rows for conformal sets."""

    @model_validator(mode="before")
    @classmethod
    def _both_by_default(cls, value: object) -> object:
        named = {"validation", "test", "validation_rows", "test_rows"}
        if isinstance(value, dict) and not named & {key for key, part in value.items() if part is not None}:
            return {**value, "validation": 0.15, "test": 0.15}
        return value


GIVEN: Literal["given"] = "given"


class Columns(NamedTuple):
    """Columns that a split may follow: codes of the first classification target, of groups, and times; each [N]."""

    strata: NDArray[np.generic] | None = None
    groups: NDArray[np.generic] | None = None
    times: NDArray[np.generic] | None = None
    parts: NDArray[np.int8] | None = None


def draw(split: Split | Literal["given"], rows: int, columns: Columns) -> Parts:
    """The rows of each part; test is drawn first, and the parts of a dataset are taken as they are."""
    if isinstance(split, str):
        return _given(columns)
    listed = [_listed(split.test_rows), _listed(split.validation_rows)]
    pool = np.setdiff1d(np.arange(rows), np.concatenate(listed))
    counts = [fraction_rows(split.test, len(pool)), fraction_rows(split.validation, len(pool))]
    stream = np.random.default_rng(derive(split.seed, 0, "split"))
    parts = []
    for part, count in enumerate(counts):
        # Whole groups can be too large: each part that is still to be drawn, and training, keeps one.
        spare = 1 + sum(later > 0 for later in counts[part + 1 :])
        taken = _take(split, pool, count, columns, stream, spare=spare) if count else _listed(None)
        pool = np.setdiff1d(pool, taken)
        parts.append(np.sort(np.concatenate([listed[part], taken])))
    if not len(pool) or any(count and not len(part) for count, part in zip(counts, parts, strict=True)):
        raise invalid("/split", "inconsistent-spec", "there are too few groups for all parts")
    if split.group is not None and columns.groups is not None and _shared(columns.groups, (pool, *parts)):
        raise invalid("/split", "inconsistent-spec", "rows that are listed share a group with rows of another part")
    return Parts(pool, parts[1], parts[0])


def _shared(groups: NDArray[np.generic], parts: Sequence[Rows]) -> bool:
    """Whether a group has rows in two parts."""
    return sum(len(np.unique(groups[part])) for part in parts) > len(np.unique(groups))


def _listed(numbers: tuple[int, ...] | None) -> Rows:
    return np.asarray(numbers or (), dtype=np.int64)


def _given(columns: Columns) -> Parts:
    if columns.parts is None:
        raise ValueError("the dataset carries no splits")
    train, validation, test = (np.flatnonzero(columns.parts == part) for part in range(3))
    if not len(validation):
        stream = np.random.default_rng(derive(0, 0, "split"))
        validation = _stratified(train, fraction_rows(0.15, len(train)), columns.strata, stream)
        train = np.setdiff1d(train, validation)
    return Parts(train, np.sort(validation), test)


def _take(split: Split, pool: Rows, count: int, columns: Columns, stream: np.random.Generator, *, spare: int) -> Rows:
    """`count` rows of the pool: whole groups, the newest, or at random."""
    if split.time is not None and columns.times is not None:
        # A row without a time is not the newest.
        times = np.nan_to_num(columns.times[pool].astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        return pool[np.argsort(times, kind="stable")[len(pool) - count :]]
    if split.group is not None and columns.groups is not None:
        return _whole_groups(pool, count, columns.groups[pool], stream, spare=spare)
    return _stratified(pool, count, columns.strata if split.stratify else None, stream)


def _whole_groups(pool: Rows, count: int, groups: NDArray[np.generic], stream: np.random.Generator, *, spare: int) -> Rows:
    """Groups in random order until `count` rows are reached; `spare` groups stay behind."""
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = stream.permutation(len(names))[: max(len(names) - spare, 0)]
    needed = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
    return pool[np.isin(codes, order[:needed])]


def _stratified(pool: Rows, count: int, strata: NDArray[np.generic] | None, stream: np.random.Generator) -> Rows:
    """`count` rows, each stratum in proportion; what rounding leaves goes to the largest remainders."""
    if strata is None:
        return stream.choice(pool, size=count, replace=False)
    _, codes, sizes = np.unique(strata[pool], return_inverse=True, return_counts=True)
    exact = sizes * (count / len(pool))
    shares = np.floor(exact).astype(np.int64)
    remainders = np.argsort(-(exact - shares), kind="stable")
    shares[remainders[: count - shares.sum()]] += 1
    return np.concatenate([stream.choice(pool[codes == code], size=share, replace=False) for code, share in enumerate(shares)])


def sizes(split: Split | Literal["given"], rows: int, given: dict[str, int] | None) -> dict[str, int]:
    """How many rows each part gets; with groups, about as many."""
    if isinstance(split, str):
        parts = {"train": 0, "validation": 0, "test": 0, **(given or {})}
        drawn = 0 if parts["validation"] else fraction_rows(0.15, parts["train"])
        return {"train": parts["train"] - drawn, "validation": parts["validation"] + drawn, "test": parts["test"]}
    test, validation = len(split.test_rows or ()), len(split.validation_rows or ())
    pool = rows - test - validation
    shares = (fraction_rows(split.validation, pool), fraction_rows(split.test, pool))
    return {"train": pool - sum(shares), "validation": validation + shares[0], "test": test + shares[1]}


def fraction_rows(share: float | None, rows: int) -> int:
    """How many of `rows` a share is: rounded, at least one, 0 for none."""
    return max(1, round(share * rows)) if share else 0
