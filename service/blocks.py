"""Walks over rows in blocks of so many bytes: no walk over a dataset needs more memory than a block or two."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 * 2**20
Rows = NDArray[np.int64]


def spread(rows: Rows, most: int) -> Rows:
    """At most so many of the row numbers, evenly spread, the first and the last among them."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def block_rows(row_bytes: int) -> int:
    """How many rows of so many bytes a block holds, at least one."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def blocks(rows: Rows, row_bytes: int, *, most: int | None = None) -> Iterator[Rows]:
    """The row numbers in blocks, in their order; a block has at most `most` rows."""
    step = min(block_rows(row_bytes), most or len(rows) or 1)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
