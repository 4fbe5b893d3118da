"""Layers that learn nothing and pool nothing: activations, dropout, and changes of shape."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from service.nets.activations import ACTIVATIONS, SEES_INPUTS, ActivationName, exported_activation
from service.nets.architecture import Width
from service.nets.convolution import drop_channels
from service.nets.layer import (
    Earlier,
    Layer,
    Making,
    Placed,
    Run,
    Saved,
    Shape,
    Step,
    Unfit,
    Writing,
    channelled,
    channels_first,
    channels_last,
    exported_reshape,
    shown,
    spatial,
)
from service.tricks.dropout import LayerRate, Site, evened
from service.values import ITEMS


class ActivationLayer(Layer):
    """A function of each number."""

    type: Literal["activation"] = "activation"
    """Activation."""
    function: ActivationName = "relu"
    """The function."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        channelled(before)
        return before

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        if self.function == "identity":
            return Saved(same=True)
        return Saved(before=True) if self.function in SEES_INPUTS else Saved(after=True)

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

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return exported_activation(self.function, writing.graph, x)


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

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        """Its mask."""
        return Saved(besides=self.units(placed.before)) if self.drops else Saved(same=True)

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

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return x


class FlattenLayer(Layer):
    """All numbers of a row as features, row-major with channels last."""

    type: Literal["flatten"] = "flatten"
    """Features of anything."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        return (math.prod(before),)

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        return moved(placed)

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

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        return moved(placed)

    def step(self, placed: Placed, making: Making) -> Step:
        return Shaped(self.type, placed.before, placed.after)


def moved(placed: Placed) -> Saved:
    """A change of shape, which copies sequences only: images lie in memory with channels last."""
    return Saved(same=len(placed.before) != 2)


class Shaped(Step):
    """The step of a change of shape."""

    def __init__(self, sort: str, before: Shape, after: Shape) -> None:
        super().__init__()
        self.sort, self.before, self.after = sort, before, after

    def forward(self, x: Tensor, run: Run) -> Tensor:
        return reshaped(x, self.before, self.after)

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return exported_reshape(writing.graph, x, self.before, self.after)


def reshaped(x: Tensor, before: Shape, after: Shape) -> Tensor:
    """Rows of one shape in another of as many numbers."""
    rows = channels_last(x, before).flatten(-len(before))
    return channels_first(rows.unflatten(-1, after), after) if len(after) > 1 else rows
