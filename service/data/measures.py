"""Statistics of columns, and the refusal of infinities, block by block."""

import math

import numpy as np
from numpy.typing import NDArray

from service.data.columns import Values
from service.errors import invalid
from service.flaws import pointer

BLOCK = 1 << 20
COUNTED = 2.0**-40
"""What entries are multiplied by before they are summed: of more than 2^40 there is no sum."""
LEAST_EXPONENT = -1000
"""Of the largest entry's power of 2: smaller numbers are brought no nearer to 1."""


def at(row: int, name: str) -> str:
    """The pointer to a cell of the uploaded file; rows are zero-based data rows."""
    return pointer("file", row, name)


def refuse_infinite(block: NDArray[np.floating], first_row: int, name: str) -> None:
    """Raises Invalid where a block holds an infinity, naming how many and the first."""
    infinite = np.flatnonzero(np.isinf(block.reshape(len(block), -1)).any(axis=1))
    if len(infinite):
        row = first_row + int(infinite[0])
        raise invalid(at(row, name), "non-finite", f"{name!r} has {len(infinite)} rows that are infinite, the first is row {row}")


def statistics(values: Values) -> dict[str, float]:
    """`min`, `max`, `mean` and population `std` over all entries that are not NaN, block by block; empty where there is none.

    Sums are taken of what powers of 2 make smaller, which changes no bit of them: neither they nor squares leave float64.
    """
    step = max(1, BLOCK // max(1, math.prod(values.shape[1:])))
    blocks = [slice(start, start + step) for start in range(0, len(values), step)]

    def entries(block: slice) -> NDArray[np.float64]:
        flat = np.asarray(values[block], dtype=np.float64).ravel()
        return flat[~np.isnan(flat)]

    count, total, low, high = 0, 0.0, math.inf, -math.inf
    for block in blocks:
        flat = entries(block)
        if len(flat):
            count, total = count + len(flat), total + float((flat * COUNTED).sum())
            low, high = min(low, float(flat.min())), max(high, float(flat.max()))
    if not count:
        return {}
    mean = min(max(total / count / COUNTED, low), high)
    scale = 2.0 ** -max(math.frexp(max(-low, high))[1], LEAST_EXPONENT)
    spread = sum(float(np.square(entries(block) * scale - mean * scale).sum()) for block in blocks)
    return {"min": low, "max": high, "mean": mean, "std": math.sqrt(spread / count) / scale}
