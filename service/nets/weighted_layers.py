"""Layers that learn: linear maps, convolutions and what is transposed of them, and another use of a layer's weights."""

import math
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from service.nets.architecture import Width
from service.nets.base import exported, held, linear
from service.nets.convolution import Kernel, Start, convolution, extents_after, on_rows, toeplitz_entries
from service.nets.layer import Earlier, Layer, Making, Placed, Run, Saved, Shape, Step, Unfit, Writing, flat, shown, spatial
from service.nets.upsampling import exported_transposed, transposed
from service.values import ITEMS


class LinearLayer(Layer):
    """A linear map of features, every one to every one."""

    type: Literal["linear"] = "linear"
    """Linear layer."""
    width: Annotated[Width, Field(examples=[32])]
    """How many features it gives."""
    bias: bool = True
    """Whether it has biases."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        flat(before)
        return (self.width,)

    def weights(self, before: Shape) -> int:
        return before[-1] * self.width

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        return Saved(before=True)

    def step(self, placed: Placed, making: Making) -> Step:
        return Dense(linear(placed.before[-1], self.width, bias=self.bias, how=making.how, generator=making.generator))


class Dense(Step):
    """A linear layer's step."""

    sort, learns = "linear", True

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.linear = layer

    def forward(self, x: Tensor, run: Run) -> Tensor:
        found: Tensor = self.linear(x)
        return found

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return exported(self.linear, writing.graph, x)


class Windowed(Layer):
    """What convolutions and their transposes have."""

    channels: Annotated[Width, Field(examples=[8])]
    """How many channels it gives."""
    kernel: Annotated[int, Field(ge=1, le=31)] = 3
    """Extent of the kernel in each axis of space."""
    stride: Annotated[int, Field(ge=1, le=16)] = 1
    """Step of the kernel."""
    padding: Annotated[int, Field(ge=0, le=512)] | Literal["same"] = "same"
    """Zeros at each end of each axis; "same": as many as keep the extents with stride 1."""
    dilation: Annotated[int, Field(ge=1, le=32)] = 1
    """Steps from one entry of the kernel to the next."""
    groups: Annotated[int, Field(ge=1, le=65536)] = 1
    """Into how many parts channels are divided, each convolved by itself."""
    bias: bool = True
    """Whether channels have biases."""

    @property
    def window(self) -> Kernel:
        """The kernel as convolutions take it."""
        return Kernel(self.kernel, self.stride, self.dilation, None if self.padding == "same" else self.padding)

    def weights(self, before: Shape) -> int:
        return before[-1] * self.channels // self.groups * int(self.kernel ** (len(before) - 1))

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        return Saved(before=True)

    def divided(self, before: Shape) -> None:
        """Raises Unfit where groups do not divide channels."""
        spatial(before)
        if before[-1] % self.groups or self.channels % self.groups:
            raise Unfit(f"{before[-1]} and {self.channels} channels do not come in {self.groups} groups", "/groups")


class ConvolutionLayer(Windowed):
    """A convolution of sequences or images."""

    type: Literal["convolution"] = "convolution"
    """Convolution."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        self.divided(before)
        return (*windows(before, self.window), self.channels)

    def products(self, placed: Placed, earlier: Earlier) -> int:
        return self.weights(placed.before) * math.prod(placed.after[:-1])

    def repeated(self, placed: Placed, earlier: Earlier) -> int:
        weights = self.weights(placed.before)
        return toeplitz_entries(weights, self.window, placed.before[:-1], placed.after[:-1]) - weights

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        """What comes, or where it is padded at one end more than at the other its padded copy."""
        begin, end = self.window.paddings
        padded = placed.before[-1] * math.prod(extent + begin + end for extent in placed.before[:-1])
        return Saved(before=True) if begin == end else Saved(besides=padded)

    def step(self, placed: Placed, making: Making) -> Step:
        start, inputs = making.start(placed.before), placed.before[-1]
        return Convolved(convolution(start, inputs, self.channels, self.window, bias=self.bias, groups=self.groups))


def windows(before: Shape, window: Kernel) -> Shape:
    """The extents of space after windows; raises Unfit where none fits."""
    extents = extents_after(before[:-1], window)
    if min(extents) < 1:
        raise Unfit(f"a window over {window.reach + 1} places does not fit into {shown(before)}", "/kernel")
    return extents


class Convolved(Step):
    """A convolution's step."""

    sort, learns = "convolution", True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv = layer

    def forward(self, x: Tensor, run: Run) -> Tensor:
        found: Tensor = self.conv(x)
        return found

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return exported(self.conv, writing.graph, x)


class TransposedConvolutionLayer(Windowed):
    """y = W^T x, W being the matrix of the convolution with the same fields that leads from what it gives to what comes."""

    type: Literal["transposed_convolution"] = "transposed_convolution"
    """Transposed convolution."""
    size: Annotated[tuple[Width, ...], ITEMS, Field(min_length=1, max_length=2)] | None = None
    """Extents of what it gives, of those that the convolution takes to what comes; null: with padding "same" `stride` times what
    comes, else the smallest."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        self.divided(before)
        pads = sum(self.window.paddings)
        extra = self.stride - 1 if self.padding == "same" else 0
        extents = tuple((extent - 1) * self.stride - pads + self.window.reach + 1 + extra for extent in before[:-1])
        if self.size is not None:
            extents = self.size
        if len(extents) != len(before) - 1 or min(extents) < 1 or extents_after(extents, self.window) != before[:-1]:
            where, back = "/size" if self.size is not None else "", windows_of(extents, self.window)
            raise Unfit(f"its convolution takes {shown(extents)} to {back}, and here come {shown(before[:-1])}", where)
        return (*extents, self.channels)

    def products(self, placed: Placed, earlier: Earlier) -> int:
        return self.weights(placed.before) * math.prod(placed.before[:-1])

    def repeated(self, placed: Placed, earlier: Earlier) -> int:
        weights = self.weights(placed.before)
        return toeplitz_entries(weights, self.window, placed.after[:-1], placed.before[:-1]) - weights

    def step(self, placed: Placed, making: Making) -> Step:
        return Spread(self, placed.before[-1], making.start(placed.before))


def windows_of(extents: Shape, window: Kernel) -> str:
    """What a convolution makes of extents, in words."""
    after = extents_after(extents, window)
    return shown(after) if min((*extents, *after)) >= 1 else "nothing"


class Spread(Step):
    """A transposed convolution's step."""

    sort, learns = "transposed_convolution", True

    def __init__(self, layer: TransposedConvolutionLayer, inputs: int, start: Start) -> None:
        super().__init__()
        self.spec, self.axes = layer, start.axes
        self.weight = nn.Parameter(torch.empty(inputs, layer.channels // layer.groups, *(layer.kernel,) * start.axes))
        self.bias = nn.Parameter(torch.empty(layer.channels)) if layer.bias else None
        if start.generator is not None:
            self._begin(start)

    @torch.no_grad()
    def _begin(self, start: Start) -> None:
        """As a convolution whose windows reach as many inputs begins."""
        window = int(self.spec.kernel**self.axes)
        read, written = len(self.weight) // self.spec.groups * window, self.weight.shape[1] * window
        bound = {"torch": read**-0.5, "glorot": (6 / (read + written)) ** 0.5}.get(start.how)
        if bound is None:
            nn.init.normal_(self.weight, std=(2 / read) ** 0.5, generator=start.generator)
        else:
            nn.init.uniform_(self.weight, -bound, bound, generator=start.generator)
        if self.bias is not None:
            edge = read**-0.5 if start.how == "torch" else 0.0
            nn.init.uniform_(self.bias, -edge, edge, generator=start.generator)

    def forward(self, x: Tensor, run: Run) -> Tensor:
        spec, before = self.spec, tuple(x.shape[-self.axes :])
        extents = spec.after((*before, len(self.weight)), {})[:-1]
        found = on_rows(lambda rows: transposed(rows, self.weight, spec.window, extents, groups=spec.groups), x, self.axes)
        return found if self.bias is None else found + self.bias.view(-1, *(1,) * self.axes)

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        weights, extents = held(writing.graph, self.weight, self.bias), self.spec.after(before, {})[:-1]
        return exported_transposed(writing.graph, x, weights, self.spec.window, extents, groups=self.spec.groups)


class ShareLayer(Layer):
    """Another use of an earlier layer's weights and biases: one parameter, whose gradient is the sum over its uses."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["share"] = "share"
    """Another use of a layer."""
    as_: Annotated[str, Field(alias="as", examples=["linear.0"])]
    """Name of an earlier linear layer, convolution or transposed convolution."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        source = earlier[self.as_]
        if len(before) != len(source.before) or before[-1] != source.before[-1]:
            raise Unfit(f"{self.as_} takes {shown(source.before)}, and here come {shown(before)}", "/as")
        return source.layer.after(before, earlier)

    def products(self, placed: Placed, earlier: Earlier) -> int:
        source = earlier[self.as_].layer
        return source.products(placed._replace(layer=source), earlier)

    def repeated(self, placed: Placed, earlier: Earlier) -> int:
        source = earlier[self.as_].layer
        return source.repeated(placed._replace(layer=source), earlier)

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        source = earlier[self.as_].layer
        return source.saved(placed._replace(layer=source), earlier)

    def step(self, placed: Placed, making: Making) -> Step:
        return Again(making.steps[self.as_])


class Again(Step):
    """A step that is another one's once more."""

    sort = "share"

    def __init__(self, source: Step) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple, lest its parameters count twice

    @property
    def shared(self) -> int:
        """Parameters that another layer holds for it."""
        return sum(parameter.numel() for parameter in self._source[0].parameters())

    def forward(self, x: Tensor, run: Run) -> Tensor:
        found: Tensor = self._source[0](x, run)
        return found

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        return self._source[0].exported(x, before, writing)
