"""The projection onto tensors with at most k numbers: iterative hard thresholding (Blumensath and Davies 2009), w <- H_k(w - step)."""

import math
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.tricks.fused import Kernel

NEAR, FAR, LEAST = 1.02, 1e3, 1e-30
"""How far from the last border the next one is looked for at first and at most, as factors, and what is added to a border of 0."""


class Border:
    """Sets all but the `kept` largest |w| of a tensor to 0, again and again in place; of equals at the border the first stay.

    Any border that exactly `kept` sizes are above is the right one, and the last one is where it is looked for first: what is remembered
    never changes the result, which is only found sooner.
    """

    def __init__(self, weight: Tensor, kept: int) -> None:
        self._weight, self._kept = weight, kept
        quick = weight.device.type == "cpu" and weight.is_contiguous()
        self._values: Any = weight.view(-1).numpy() if quick else None
        self.edge = 0.0
        """Where the border was last."""

    def project(self, dense: Any = None) -> None:
        """Keep the largest of the present values, which an array of their shape gets before."""
        if dense is not None:
            dense[...] = self._weight if self._values is None else self._values.reshape(dense.shape)
        if self._kept >= self._weight.numel():
            return
        edge = self._found() if self._values is not None else None
        if edge is None:
            self.edge = by_rank(self._weight, self._kept)
        else:
            self.edge = edge
            drop(self._values, self._exact(edge))

    def _found(self) -> float | None:
        """A border between the sizes of ranks `kept` and `kept` + 1; None if they are equal.

        It goes away from the last one until the right one is in between, then by linear interpolation, every third time to the middle.
        """
        low, high, border, factor = (0.0, -1), (math.inf, -1), self.edge, NEAR
        for tried in count():
            above = count_above(self._values, self._exact(border))
            if above == self._kept or (above < self._kept and border == 0.0):
                return border
            low, high = ((border, above), high) if above > self._kept else (low, (border, above))
            if low[1] < 0 or high[1] < 0:
                border = border * factor + LEAST if above > self._kept else max(border / factor - LEAST, 0.0)
                factor = min(factor * factor, FAR)
            else:
                share = 0.5 if tried % 3 == 2 else (low[1] - self._kept) / (low[1] - high[1])
                border = low[0] + (high[0] - low[0]) * share
            border = float(self._exact(border))
            if not low[0] < border < high[0]:
                border = float(self._exact((low[0] + high[0]) / 2))
                if not low[0] < border < high[0]:
                    return None
        raise AssertionError("a border is found, or there is none")

    def _exact(self, border: float) -> Any:
        """As a number of the values' type."""
        return self._values.dtype.type(border)


@Kernel
def count_above(values: Any, border: Any) -> Any:
    """How many |w| are above a border; counts of 32 bits are counted as many at a time as there are values."""
    above = np.int32(0)
    for i in range(values.size):
        above = np.int32(above + np.int32(abs(values[i]) > border))
    return above


@Kernel
def drop(values: Any, border: Any) -> None:
    """Set |w| up to a border to 0; what is not a number stays, and is seen in the loss."""
    for i in range(values.size):
        values[i] = 0 if abs(values[i]) <= border else values[i]


def by_rank(weight: Tensor, kept: int) -> float:
    """The same by sorting, whatever is equal to what; the largest size that was dropped."""
    flat = weight.view(-1) if weight.is_contiguous() else weight.reshape(-1)
    order = flat.abs().sort(descending=True, stable=True).indices
    edge = float(flat[order[kept]].abs())
    mask = torch.zeros_like(flat).index_fill_(0, order[:kept], 1.0)
    weight.mul_(mask.view_as(weight))
    return edge
