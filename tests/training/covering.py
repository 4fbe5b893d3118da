"""Covering arrays of strength two: few jobs in which every value of every factor meets every value of every other.

Greedy, row by row, and the same every time (Cohen, Dalal, Fredman and Patton 1997, "The AETG system", without its chance).
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

Cell = tuple[str, str]
"""A factor and one of its values."""
Pair = tuple[Cell, Cell]
Row = dict[str, str]


def pairs_of(factors: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Every two values of different factors, in the order of the factors."""
    return [((a, x), (b, y)) for a, b in combinations(factors, 2) for x in factors[a] for y in factors[b]]


def pairs_in(row: Row) -> set[Pair]:
    """The pairs that a row has, its factors being in their order."""
    return set(combinations(row.items(), 2))


def covering_array(factors: Mapping[str, Sequence[str]], forbidden: Collection[Pair] = (), *, most: int | None = None) -> list[Row]:
    """Rows that have all pairs but the forbidden ones, which none has; the first `most` of them, which have as many as they can.

    Raises ValueError for a pair that cannot be in any row.
    """
    banned, left = set(forbidden), dict.fromkeys(pair for pair in pairs_of(factors) if pair not in set(forbidden))
    rows: list[Row] = []
    while left and (most is None or len(rows) < most):
        row = _fullest(factors, banned, left)
        for pair in pairs_in(row):
            left.pop(pair, None)
        rows.append(row)
    return rows


def _fullest(factors: Mapping[str, Sequence[str]], banned: Collection[Pair], left: Mapping[Pair, None]) -> Row:
    """A row that starts with the pair whose values have most pairs left, and takes at each factor what has most."""
    count: dict[Cell, int] = {}
    for pair in left:
        for cell in pair:
            count[cell] = count.get(cell, 0) + 1
    seed = max(left, key=lambda pair: count[pair[0]] + count[pair[1]])
    order = sorted((name for name in factors if name not in dict(seed)), key=lambda name: -len(factors[name]))
    found = _filled(dict(seed), order, factors, banned, left)
    if found is None:
        raise ValueError(f"no row can have {seed}: what is forbidden leaves another factor without a value")
    return {name: found[name] for name in factors}


def _filled(
    row: Row, order: Sequence[str], factors: Mapping[str, Sequence[str]], banned: Collection[Pair], left: Mapping[Pair, None]
) -> Row | None:
    """The row with a value of each of the factors that are left, or None where every choice ends in a forbidden pair."""
    if not order:
        return row
    places = list(factors)

    def ordered(a: Cell, b: Cell) -> Pair:
        return (a, b) if places.index(a[0]) < places.index(b[0]) else (b, a)

    def gain(value: str) -> int:
        return sum(ordered((order[0], value), cell) in left for cell in row.items())

    allowed = [value for value in factors[order[0]] if not any(ordered((order[0], value), cell) in banned for cell in row.items())]
    for value in sorted(allowed, key=gain, reverse=True):
        found = _filled({**row, order[0]: value}, order[1:], factors, banned, left)
        if found is not None:
            return found
    return None
