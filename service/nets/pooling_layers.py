"""Layers that pool, and the way back through them."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from service.nets.base import held
from service.nets.convolution import Kernel, exported_pool, on_rows
from service.nets.layer import Earlier, Layer, Making, Placed, Run, Saved, Shape, Step, Unfit, Writing, shown, spatial
from service.nets.upsampling import exported_max_pool, exported_transposed, exported_unpooling, max_pool, transposed, unpool
from service.nets.weighted_layers import windows


class Pooling(Layer):
    """What poolings have: windows without padding, what is left over at an end dropped."""

    kernel: Annotated[int, Field(ge=1, le=64)] = 2
    """Extent of the windows in each axis of space."""
    stride: Annotated[int, Field(ge=1, le=64)] | None = None
    """Step of the windows; null: their extent."""

    @property
    def window(self) -> Kernel:
        """The windows as a kernel."""
        return Kernel(self.kernel, self.stride or self.kernel, padding=0)

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        spatial(before)
        return (*windows(before, self.window), before[-1])


class MaxPoolLayer(Pooling):
    """The maximum of each window."""

    type: Literal["max_pool"] = "max_pool"
    """Max pooling."""

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        """What comes, and the 64-bit places of its maxima."""
        return Saved(before=True, besides=2 * math.prod(placed.after))

    def step(self, placed: Placed, making: Making) -> Step:
        return MaxPool(self.window, len(placed.before) - 1, keeps=self.label in making.unpooled)


class MaxPool(Step):
    """Max pooling's step, which keeps the switches where something unpools it."""

    sort = "max_pool"

    def __init__(self, window: Kernel, axes: int, *, keeps: bool) -> None:
        super().__init__()
        self.window, self.axes, self.keeps = window, axes, keeps

    def forward(self, x: Tensor, run: Run) -> Tensor:
        if self.keeps:
            found, switches = max_pool(x, self.axes, self.window)
            run.switches.append(switches)
            return found
        pool = F.max_pool1d if self.axes == 1 else F.max_pool2d
        return on_rows(lambda rows: pool(rows, self.window.extent, self.window.stride), x, self.axes)

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        if not self.keeps:
            return exported_pool(writing.graph, x, "max", self.axes, self.window)
        found, own = exported_max_pool(writing.graph, x, self.axes, self.window)
        writing.kept.extend(own)
        return found


class AveragePoolLayer(Pooling):
    """The mean of each window."""

    type: Literal["average_pool"] = "average_pool"
    """Average pooling."""

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        return Saved(before=True)

    def step(self, placed: Placed, making: Making) -> Step:
        return AveragePool(self.window, len(placed.before) - 1)


class AveragePool(Step):
    """Average pooling's step."""

    sort = "average_pool"

    def __init__(self, window: Kernel, axes: int) -> None:
        super().__init__()
        self.window, self.axes = window, axes

    def forward(self, x: Tensor, run: Run) -> Tensor:
        extent, stride = self.window[:2]
        if self.axes == 1:
            return on_rows(lambda rows: F.avg_pool1d(rows, extent, stride), x, 1)
        return on_rows(lambda rows: F.avg_pool2d(rows, extent, stride), x, 2)

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return exported_pool(writing.graph, x, "average", self.axes, self.window)


class UnpoolLayer(Layer):
    """The way back through an earlier pooling, its transposed Jacobian: to where the maximum was, or spread over the window."""

    type: Literal["unpool"] = "unpool"
    """Unpooling."""
    of: Annotated[str, Field(examples=["max_pool.0"])]
    """Name of an earlier pooling; max pooling's windows must not overlap."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        pool = earlier[self.of]
        if before != pool.after:
            raise Unfit(f"{self.of} gives {shown(pool.after)}, and here come {shown(before)}", "/of")
        if isinstance(pool.layer, MaxPoolLayer) and pool.layer.window.stride < pool.layer.window.extent:
            raise Unfit(f"the windows of {self.of} overlap, so that two of its maxima may be at one place", "/of")
        return pool.before

    def step(self, placed: Placed, making: Making) -> Step:
        extents, pool = placed.after[:-1], making.steps[self.of]
        if isinstance(pool, AveragePool):
            return Smear(pool.window, extents)
        return Unpool(making.unpooled.index(self.of), extents)


class Unpool(Step):
    """Unpooling with the switches of max pooling, by their number among those that are kept."""

    sort = "unpool"

    def __init__(self, number: int, extents: Shape) -> None:
        super().__init__()
        self.number, self.extents = number, extents

    def forward(self, x: Tensor, run: Run) -> Tensor:
        switches = run.switches[self.number]
        return unpool(x, switches.expand(x.shape) if switches.ndim < x.ndim else switches, self.extents)

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return exported_unpooling(writing.graph, x, writing.kept[2 * self.number : 2 * self.number + 2])


class Smear(Step):
    """Unpooling of average pooling: each value's share at every place of its window."""

    sort = "unpool"

    def __init__(self, window: Kernel, extents: Shape) -> None:
        super().__init__()
        self.window, self.extents = window, extents

    def forward(self, x: Tensor, run: Run) -> Tensor:
        axes = len(self.extents)
        channels, window = x.shape[-axes - 1], (self.window.extent,) * axes
        weight = x.new_full((channels, 1, *window), 1 / math.prod(window))
        return on_rows(lambda rows: transposed(rows, weight, self.window, self.extents, groups=channels), x, axes)

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        window = (self.window.extent,) * len(self.extents)
        weights = held(writing.graph, torch.full((before[-1], 1, *window), 1 / math.prod(window)))
        return exported_transposed(writing.graph, x, weights, self.window, self.extents, groups=before[-1])
