"""Layers that normalize."""

import math
from typing import Literal

from torch import Tensor, nn

from service.nets.base import BatchNorm, LayerNorm, exported
from service.nets.convolution import ChannelNorm
from service.nets.layer import Earlier, Layer, Making, Placed, Run, Saved, Shape, Step, Writing, channelled


class BatchNormLayer(Layer):
    """Batch norm of features, or of channels over rows and space."""

    type: Literal["batch_norm"] = "batch_norm"
    """Batch norm."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        channelled(before)
        return before

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        return Saved(before=True)

    def step(self, placed: Placed, making: Making) -> Step:
        shape = placed.before
        return Normed(self.type, BatchNorm(shape[0]) if len(shape) == 1 else ChannelNorm(shape[-1], len(shape) - 1), axes=0)


class LayerNormLayer(Layer):
    """Layer norm of a row's features, or of the channels at each place of space."""

    type: Literal["layer_norm"] = "layer_norm"
    """Layer norm."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        channelled(before)
        return before

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        """What comes, and the mean and deviation at each place."""
        return Saved(before=True, besides=2 * math.prod(placed.before[:-1]))

    def step(self, placed: Placed, making: Making) -> Step:
        return Normed(self.type, LayerNorm(placed.before[-1]), axes=len(placed.before) - 1)


class Normed(Step):
    """A norm's step; over `axes` of space the norm has channels last."""

    learns = True

    def __init__(self, sort: str, norm: nn.Module, *, axes: int) -> None:
        super().__init__()
        self.sort, self.norm, self.axes = sort, norm, axes

    def forward(self, x: Tensor, run: Run) -> Tensor:
        found: Tensor = self.norm(x.movedim(-self.axes - 1, -1)).movedim(-1, -self.axes - 1) if self.axes else self.norm(x)
        return found

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        graph, axes = writing.graph, self.axes
        if not axes:
            return exported(self.norm, graph, x)
        last = graph.add("Transpose", x, perm=(0, *range(2, axes + 2), 1))
        return graph.add("Transpose", exported(self.norm, graph, last), perm=(0, axes + 1, *range(1, axes + 1)))
