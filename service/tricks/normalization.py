"""Normalization of inputs inside the model: everything above a network speaks the user's units."""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.blocks import blocks
from service.onnx.graph import Graph
from service.values import Value

Scope = Literal["feature", "channel", "all"]
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Share of an entry's largest value up to which training rows differ by rounding alone: the entry is constant."""


class Moments:
    """Count, mean, standard deviation, minimum and maximum of rows, in float64, one block of rows at a time.

    `axes` are the axes averaged over, the rows among them (Chan et al. 1979, pairwise update).
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes
        self.count = 0.0
        self.mean: NDArray[np.float64] = np.zeros(1)
        self._squares: NDArray[np.float64] = np.zeros(1)
        self.low: NDArray[np.float64] = np.full(1, np.inf)
        self.high: NDArray[np.float64] = np.full(1, -np.inf)

    def add(self, block: NDArray[np.generic]) -> None:
        """Take a block of rows into account."""
        x = block.astype(np.float64)
        count = float(np.prod([x.shape[axis] for axis in self.axes]))
        mean = x.mean(axis=self.axes, keepdims=True)
        low, high = x.min(axis=self.axes, keepdims=True), x.max(axis=self.axes, keepdims=True)
        x -= mean  # in its own memory: a block is as large as any walk over a dataset may take
        squares = np.square(x, out=x).sum(axis=self.axes, keepdims=True)
        delta, total = mean - self.mean, self.count + count
        self._squares = self._squares + squares + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation (ddof 0)."""
        return np.asarray(np.sqrt(self._squares / max(self.count, 1)))


def moments(x: NDArray[np.generic], rows: NDArray[np.int64], axes: tuple[int, ...]) -> Moments:
    """The moments of some rows of an array that may be larger than memory."""
    found = Moments(axes)
    for block in blocks(rows, 8 * math.prod(x.shape[1:])):
        found.add(x[block])
    return found


def beyond_rounding(deviation: Tensor, shift: Tensor) -> Tensor:
    """Deviations of constant entries from their mean, 0 where they are no more than what training rows may differ by."""
    return torch.where(deviation.abs() <= 1.5 * ROUNDING * shift.abs(), torch.zeros_like(deviation), deviation)


class Normalize(nn.Module):
    """(x - shift) / scale per entry; the two buffers broadcast against a row.

    `constant`: which entries the training rows have one value of, in the buffers' shape; known while training, not stored.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, constant: NDArray[np.bool_] | None = None) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.constant = constant if constant is not None else np.zeros(tuple(shift.shape), dtype=bool)

    def forward(self, x: Tensor) -> Tensor:
        """x in normalized units."""
        shifted = x.to(self.shift.dtype) - self.shift
        return shifted.div_(self.scale) if isinstance(shifted, Tensor) else shifted / self.scale  # in its own memory; a box has none

    def exported(self, graph: Graph, x: str) -> str:
        """The operators of `forward`."""
        shift, scale = (graph.constant(part.cpu().numpy()) for part in (self.shift, self.scale))
        return graph.add("Div", graph.add("Sub", x, shift), scale)


class Preprocessing(Value):
    """How inputs and regression targets are brought to a common scale; fitted on the training rows only."""

    normalize: Literal["standard", "minmax", "none"] = "standard"
    """Standard: mean 0 and standard deviation 1; minmax: 0 to 1; none: as they are."""
    per: Scope | None = None
    """What shares one mean and scale: a column, a channel or all entries; null takes what the data suggest."""
    normalize_targets: bool = True
    """Whether regression targets are standardized in training; answers are in their own unit either way."""

    def scope(self, kind: str, dtype: str) -> Scope:
        """What shares one mean and scale: a column, a channel, or everything."""
        if self.per is not None:
            return self.per
        if kind == "table":
            return "feature"
        return "all" if dtype == "uint8" else "channel"

    def fit(self, x: NDArray[np.generic], rows: NDArray[np.int64], *, kind: str, plain: int = 0) -> Normalize:
        """The normalizer of the training rows; the last `plain` columns of a table (one-hot) stay as they are.

        Constant and nearly constant entries are shifted and divided by 1: their spread is rounding noise, or nothing in float32.
        """
        shape = x.shape[1:]
        if self.normalize == "none":
            return Normalize(torch.zeros((1,) * max(len(shape), 1)), torch.ones((1,) * max(len(shape), 1)))
        found = moments(x, rows, _axes(self.scope(kind, str(x.dtype)), len(shape)))
        shift, scale = (found.mean, found.std) if self.normalize == "standard" else (found.low, found.high - found.low)
        same = found.high - found.low <= ROUNDING * np.maximum(abs(found.low), abs(found.high))
        constant = same | (scale < np.finfo(np.float32).tiny)
        scale = np.where(constant, 1.0, scale)
        if plain:
            shift, scale = np.broadcast_to(shift, (1, *shape)).copy(), np.broadcast_to(scale, (1, *shape)).copy()
            constant = np.broadcast_to(constant, (1, *shape)).copy()
            shift[..., -plain:], scale[..., -plain:], constant[..., -plain:] = 0.0, 1.0, False
        kept = torch.tensor(shift[0], dtype=torch.float32), torch.tensor(scale[0], dtype=torch.float32)
        return Normalize(*kept, constant[0])


def _axes(scope: Scope, rank: int) -> tuple[int, ...]:
    """Axes of [N, *shape] to average over; a channel is the last of three axes, and [H, W] has one channel."""
    if scope == "feature":
        return (0,)
    if scope == "all" or rank == 2:
        return tuple(range(rank + 1))
    return tuple(range(rank)) if rank > 1 else (0,)
