"""Layers that learn nothing: pooling and its way back, activations, dropout, and changes of shape."""

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from service.nets.activations import ACTIVATIONS, ActivationName
from service.nets.architecture import Width
from service.nets.convolution import Kernel, drop_channels, on_rows
from service.nets.layer import (
    Earlier,
    Layer,
    Making,
    Placed,
    Run,
    Shape,
    Step,
    Unfit,
    channelled,
    channels_first,
    channels_last,
    shown,
    spatial,
)
from service.nets.upsampling import max_pool, transposed, unpool
from service.nets.weighted_layers import windows
from service.tricks.dropout import LayerRate, Site, evened
from service.values import ITEMS


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


class AveragePoolLayer(Pooling):
    """The mean of each window."""

    type: Literal["average_pool"] = "average_pool"
    """Average pooling."""

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


class ActivationLayer(Layer):
    """A function of each number."""

    type: Literal["activation"] = "activation"
    """Activation."""
    function: ActivationName = "relu"
    """The function."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        channelled(before)
        return before

    def step(self, placed: Placed, making: Making) -> Step:
        return Activated(Site(self.label, placed.before[-1], 0.0), len(placed.before) - 1, self.function)


class Activated(Step):
    """An activation's step, whose outputs can be looked at by feature or channel."""

    sort = "activation"
    site: Site

    def __init__(self, site: Site, axes: int, function: ActivationName) -> None:
        super().__init__()
        self.site, self.axes, self.function = site, axes, function

    def forward(self, x: Tensor, run: Run) -> Tensor:
        found = ACTIVATIONS[self.function](x)
        return drop_channels(found, run.gate, self.site, self.axes) if self.axes else run.gate(found, self.site)


class DropoutLayer(Layer):
    """Dropout of single numbers, or of whole channels with one mask for all places."""

    type: Literal["dropout"] = "dropout"
    """Dropout."""
    rate: Annotated[LayerRate, Field(examples=[0.5])]
    """Rate of dropping a unit, or a list with one for each."""
    channel: bool = False
    """Whether whole channels are dropped."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        channelled(before)
        if self.channel:
            spatial(before)
        units = self.units(before)
        if isinstance(self.rate, tuple) and len(self.rate) != units:
            raise Unfit(f"{len(self.rate)} rates for {units} units of {shown(before)}", "/rate")
        return before

    def units(self, before: Shape) -> int:
        """How many can be dropped."""
        return before[-1] if self.channel else math.prod(before)

    @property
    def drops(self) -> bool:
        """Whether it drops any unit."""
        return any(self.rate) if isinstance(self.rate, tuple) else self.rate > 0

    def step(self, placed: Placed, making: Making) -> Step:
        return Dropped(Site(self.label, self.units(placed.before), evened(self.rate)), placed.before, channel=self.channel)


class Dropped(Step):
    """Dropout's step. Single numbers of space are units in data's order; a channel's mask is the same at all places."""

    sort = "dropout"
    site: Site

    def __init__(self, site: Site, shape: Shape, *, channel: bool) -> None:
        super().__init__()
        self.site, self.shape, self.channel = site, shape, channel

    def forward(self, x: Tensor, run: Run) -> Tensor:
        axes = len(self.shape) - 1
        if not self.channel:
            rows = (math.prod(self.shape),)
            return reshaped(run.gate(reshaped(x, self.shape, rows), self.site), rows, self.shape)
        ones = x.new_ones(x.shape[:-axes])
        mask = run.gate(ones, self.site)
        return x if mask is ones else x * mask[(..., *(None,) * axes)]


class FlattenLayer(Layer):
    """All numbers of a row as features, row-major with channels last."""

    type: Literal["flatten"] = "flatten"
    """Features of anything."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        return (math.prod(before),)

    def step(self, placed: Placed, making: Making) -> Step:
        return Shaped(self.type, placed.before, placed.after)


class ReshapeLayer(Layer):
    """The numbers of a row in another shape, row-major with channels last."""

    type: Literal["reshape"] = "reshape"
    """Another shape."""
    shape: Annotated[tuple[Width, ...], ITEMS, Field(min_length=1, max_length=3, examples=[[4, 4, 2]])]
    """Features [F], a sequence [T, C] or an image [H, W, C]."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        if math.prod(before) != math.prod(self.shape):
            said = f"{shown(self.shape)} has {math.prod(self.shape)} numbers, and here come {math.prod(before)} of {shown(before)}"
            raise Unfit(said, "/shape")
        return self.shape

    def step(self, placed: Placed, making: Making) -> Step:
        return Shaped(self.type, placed.before, placed.after)


class Shaped(Step):
    """The step of a change of shape."""

    def __init__(self, sort: str, before: Shape, after: Shape) -> None:
        super().__init__()
        self.sort, self.before, self.after = sort, before, after

    def forward(self, x: Tensor, run: Run) -> Tensor:
        return reshaped(x, self.before, self.after)


def reshaped(x: Tensor, before: Shape, after: Shape) -> Tensor:
    """Rows of one shape in another of as many numbers."""
    rows = channels_last(x, before).flatten(-len(before))
    return channels_first(rows.unflatten(-1, after), after) if len(after) > 1 else rows
