"""The projection onto tensors with at most k numbers: iterative hard thresholding (Blumensath and Davies 2009), w <- H_k(w - step)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BAND = 1.05
"""How far around the last border neighbours are, as a factor: few of them, and yet none from farther away for some steps."""


class Border:
    """Sets all but the `kept` largest |w| of a tensor to 0, again and again in place; of equals at the border the first stay.

    Any border that exactly `kept` sizes are above is the right one. It is looked for among the weights that were near the last one,
    and counting then says whether it is right: what is remembered never changes the result, which is only found sooner.
    """

    def __init__(self, weight: Tensor, kept: int) -> None:
        self._weight, self._kept = weight, kept
        self._quick = weight.device.type == "cpu" and weight.is_contiguous()
        self._values: NDArray[np.floating] = weight.numpy().reshape(-1) if self._quick else np.empty(0)
        self._sizes, self._over = np.empty_like(self._values), np.empty(len(self._values), dtype=np.bool_)
        self._near: NDArray[np.intp] | None = None
        self._rank = 0
        self.edge = 0.0
        """The largest size that was dropped last."""

    def project(self) -> None:
        """Keep the largest of the present values."""
        if self._kept >= self._weight.numel():
            return
        edge = self._found() if self._quick else None
        if edge is None:
            self.edge = by_rank(self._weight, self._kept)
        else:
            self.edge = edge
            torch.hardshrink(self._weight, edge, out=self._weight)

    def _found(self) -> float | None:
        """The size of rank `kept` + 1; None if that of rank `kept` is the same."""
        np.abs(self._values, out=self._sizes)
        edge = self._among_neighbours()
        if edge is None and self._meet():
            edge = self._among_neighbours()
        if edge is not None:
            return edge
        largest = torch.from_numpy(self._sizes).topk(self._kept + 1).values
        self.edge = float(largest[self._kept])  # where to look for neighbours next time
        return self.edge if bool(largest[self._kept - 1] > largest[self._kept]) else None

    def _among_neighbours(self) -> float | None:
        """The border if it runs through those that were near, and those that were above are."""
        if self._near is None:
            return None
        own = self._sizes[self._near]
        own.partition(self._rank)
        edge = float(own[self._rank])
        np.greater(self._sizes, edge, out=self._over)
        return edge if np.count_nonzero(self._over) == self._kept else None

    def _meet(self) -> bool:
        """Remember who is near the last border; whether the next one may be among them."""
        above = self._sizes > self.edge * _BAND
        near = np.flatnonzero((self._sizes > self.edge / _BAND) ^ above)
        self._rank = len(near) - 1 - (self._kept - int(np.count_nonzero(above)))
        self._near = near if self.edge > 0 and 0 <= self._rank < len(near) else None
        return self._near is not None


def by_rank(weight: Tensor, kept: int) -> float:
    """The same by sorting, whatever is equal to what; the largest size that was dropped."""
    flat = weight.view(-1) if weight.is_contiguous() else weight.reshape(-1)
    order = flat.abs().sort(descending=True, stable=True).indices
    edge = float(flat[order[kept]].abs())
    mask = torch.zeros_like(flat).index_fill_(0, order[:kept], 1.0)
    weight.mul_(mask.view_as(weight))
    return edge
