"""The projection onto tensors with at most k numbers: iterative hard thresholding (Blumensath and Davies 2009), w <- H_k(w - step)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.tricks.fused import Kernel

NEAR, FAR, LEAST, MOST = 1.02, 1e3, 1e-30, 300
"""How far from the last border the next one is looked for at first and at most, as factors; what is added to a border of 0; and how
often it is looked for."""


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
        whole, edge = self._kept >= self._weight.numel(), -1.0
        if self._values is None or whole:
            if dense is not None:
                dense[...] = self._weight
        else:
            before = self._values if dense is None else dense.reshape(-1)
            edge = keep_largest(self._values, before, self._kept, self.edge)
        if not whole:
            self.edge = edge if edge >= 0 else by_rank(self._weight, self._kept)


@Kernel("f4(f4[::1], f4[::1], i8, f4)")
def keep_largest(values: Any, before: Any, kept: Any, guess: Any) -> Any:
    """Set all but the `kept` largest |w| of a flat array to 0, and the other array to what they were before.

    Gives the border, or -1 and no change where there is none between two sizes. It goes away from the guess until the right one is in
    between, then by linear interpolation, every third time to the middle. Counts have 32 bits, as many as there are values in a vector.
    """
    before[:] = values
    low, above_low, high, above_high = values.dtype.type(0), -1, values.dtype.type(np.inf), -1
    border, factor = guess, NEAR
    for tried in range(MOST):
        above: Any = np.int32(0)
        for i in range(values.size):
            above = np.int32(above + np.int32(abs(values[i]) > border))
        if above == kept or (above < kept and border == 0):
            for i in range(values.size):
                values[i] = 0 if abs(values[i]) <= border else values[i]  # what is not a number stays, and is seen in the loss
            return border
        if above > kept:
            low, above_low = border, above
        else:
            high, above_high = border, above
        between = above_low >= 0 and above_high >= 0
        if not between:
            border = border * factor + LEAST if above > kept else max(border / factor - LEAST, 0)
            factor = min(factor * factor, FAR)
        else:
            share = 0.5 if tried % 3 == 2 else (above_low - kept) / (above_low - above_high)
            border = low + (high - low) * share
        border = values.dtype.type(border)
        if between and not low < border < high:
            border = values.dtype.type(low + (high - low) / 2)
            if not low < border < high:
                break
    return values.dtype.type(-1)


def by_rank(weight: Tensor, kept: int) -> float:
    """The same by sorting, whatever is equal to what; the largest size that was dropped."""
    flat = weight.view(-1) if weight.is_contiguous() else weight.reshape(-1)
    order = flat.abs().sort(descending=True, stable=True).indices
    edge = float(flat[order[kept]].abs())
    dropped = torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order[kept:], True)
    weight.masked_fill_(dropped.view_as(weight), 0.0)
    return edge
