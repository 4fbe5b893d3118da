"""How the average over sampled dropout masks comes near its limit: one over the root of their number."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.inference.decomposition import Floats, predicted, variance_decomposition

SIZES = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of masks at which the way is looked at; as many are drawn as the last."""


def running_errors(errors: Floats, sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """How the mean of S draws of one random network approaches the mean of all: errors [S, N, ..] of independent draws.

    Of each size: `measured`, the error of the first draws; `predicted`, v / S + (S - 1) c / S; `low` and `high`, two
    standard deviations of the error around it; `deviation`, the root mean square by which means of so many draws differ
    from the limit, from disjoint groups of them, null where there is one group; `predicted_deviation`, sqrt((v - c) / S).
    """
    most, n = errors.shape[:2]
    flat = errors.reshape(most, -1)
    found = variance_decomposition(errors)
    scatter = max(0.0, found["v"] - found["c"])
    rows = []
    for size in sizes:
        error, reach = predicted(found["v"], found["c"], size), 2 * error_deviation(flat @ flat.T / n, size)
        rows.append(
            {
                "samples": size,
                "measured": float((flat[:size].mean(0) ** 2).sum() / n),
                "predicted": error,
                "low": max(0.0, error - reach),
                "high": error + reach,
                "deviation": _deviation(flat, size, n),
                "predicted_deviation": math.sqrt(scatter / size),
            }
        )
    return rows


def error_deviation(second: Floats, size: int) -> float:
    """The standard deviation of the error of a mean of S independent draws, from the draws' second moments [M, M].

    With m the mean error and d_i the deviations from it, the error is |m|^2 + 2 m.d + |d|^2, d the mean of the S d_i. Its
    variance is 4 var(m.d_i) / S + 4 cov(m.d_i, |d_i|^2) / S^2 + (var(|d_i|^2) + 2 (S - 1) E (d_i.d_j)^2) / S^3: what falls as
    1 / sqrt(S) in the end is what a draw's error has in common with the limit's.
    """
    along = second.mean(axis=1) - second.mean()
    products = second - second.mean(axis=0) - along[:, None]
    lengths = np.diag(products)
    pairs = products[~np.eye(len(products), dtype=bool)]
    spread = np.cov(along, lengths)
    variance = 4 * spread[0, 0] / size + 4 * spread[0, 1] / size**2 + (spread[1, 1] + 2 * (size - 1) * (pairs**2).mean()) / size**3
    return math.sqrt(max(0.0, float(variance)))


def _deviation(flat: Floats, size: int, rows: int) -> float | None:
    """The standard deviation among the means of disjoint groups of draws, root mean square over rows."""
    groups = len(flat) // size
    if groups < 2:
        return None
    means = flat[: groups * size].reshape(groups, size, -1).mean(axis=1)
    return math.sqrt(float(means.var(axis=0, ddof=1).sum() / rows))
