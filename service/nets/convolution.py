"""Layers over space: convolutions of images and sequences, pooling, batch norm and dropout by channel.

Features are [.., N, C, *S] with one or two axes of space; inputs come with channels last, [.., N, H, W], [.., N, H, W, C] or
sequences [.., N, T, F].
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.base import BatchNorm, held, initialize
from service.onnx.graph import Graph
from service.tricks.dropout import Gate, Site, Watcher


class Space:
    """How rows of a shape lie in space: `axes` of space, their `extents`, and `channels`."""

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        grey = kind == "image" and len(shape) == 2
        self.shape = shape
        self.extents: tuple[int, ...] = shape if grey else shape[:-1]
        self.channels: int = 1 if grey else shape[-1]
        self._grey = grey

    @property
    def axes(self) -> int:
        """1 for sequences, 2 for images."""
        return len(self.extents)

    def channels_first(self, x: Tensor) -> Tensor:
        """Rows [.., N, *shape] as [.., N, C, *S]; a view, which convolutions take as they take channels last."""
        return x.unsqueeze(-self.axes - 1) if self._grey else x.movedim(-1, -self.axes - 1)

    def exported(self, graph: Graph, x: str) -> str:
        """The operator of `channels_first`."""
        if self._grey:
            return graph.add("Unsqueeze", x, graph.numbers(1))
        return graph.add("Transpose", x, perm=(0, self.axes + 1, *range(1, self.axes + 1)))

    def gated(self, x: Tensor, gate: Gate, site: Site) -> Tensor:
        """Rows [.., N, *shape] whose entries are the site's units, gated."""
        return gate(x.flatten(-len(self.shape)), site).unflatten(-1, self.shape) if site.rate else x


def spatial(shape: tuple[int, ...], kind: str) -> Iterator[Flaw]:
    """What keeps rows from lying in space."""
    fits = kind == "image" or (kind == "tensor" and len(shape) == 2)
    if not fits:
        shown = "a table" if kind == "table" else f"{list(shape)}"
        message = f"it takes images [H, W] or [H, W, C] and sequences [T, F], not {shown}"
        yield Flaw("/type", "inconsistent-spec", message)


def on_rows(layer: Callable[[Tensor], Tensor], x: Tensor, axes: int) -> Tensor:
    """The layer on features [.., N, C, *S], whatever leading axes there are."""
    leading = x.shape[: -axes - 1]
    if len(leading) == 1:
        return layer(x)
    found: Tensor = layer(x.flatten(0, len(leading) - 1)).unflatten(0, leading)
    return found


class _Unset:
    """Weights are unset memory until `initialize` or a load sets them: torch would draw them from its global generator."""

    def reset_parameters(self) -> None:
        """Nothing."""


class Conv1d(_Unset, nn.Conv1d):
    """nn.Conv1d of features [.., N, C, T]."""

    def forward(self, x: Tensor) -> Tensor:
        return on_rows(super().forward, x, 1)

    def exported(self, graph: Graph, x: str) -> str:
        """[N, C, T'] of [N, C', T]."""
        return _exported(self, graph, x)


class Conv2d(_Unset, nn.Conv2d):
    """nn.Conv2d of features [.., N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return on_rows(super().forward, x, 2)

    def exported(self, graph: Graph, x: str) -> str:
        """[N, C, H', W'] of [N, C', H, W]."""
        return _exported(self, graph, x)


def _exported(layer: nn.Conv1d | nn.Conv2d, graph: Graph, x: str) -> str:
    strides, pads = tuple(layer.stride), tuple(int(width) for width in layer.padding)
    return graph.add("Conv", x, *held(graph, layer.weight, layer.bias), strides=strides, pads=(*pads, *pads))


class Kernel(NamedTuple):
    """Extent and step of a kernel, the same in all axes."""

    extent: int
    stride: int = 1


class Start(NamedTuple):
    """Axes of space, how weights begin, and the generator that they come from; without one they stay unset."""

    axes: int
    how: str
    generator: torch.Generator | None


def convolution(start: Start, inputs: int, outputs: int, kernel: Kernel, *, bias: bool) -> nn.Module:
    """A convolution padded so that stride 1 keeps the extents; an even kernel pads one more at the end than at the beginning."""
    kind, odd = Conv1d if start.axes == 1 else Conv2d, kernel.extent % 2 == 1
    layer = kind(inputs, outputs, kernel.extent, stride=kernel.stride, padding=kernel.extent // 2 if odd else 0, bias=bias)
    if start.generator is not None:
        initialize(layer, start.how, start.generator)
    return layer if odd else nn.Sequential(Pad(start.axes, kernel.extent), layer)


class Pad(nn.Module):
    """Zeros around space, for kernels of even size."""

    def __init__(self, axes: int, kernel: int) -> None:
        super().__init__()
        self.widths = [(kernel - 1) // 2, kernel // 2] * axes

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.widths)

    def exported(self, graph: Graph, x: str) -> str:
        """The same zeros."""
        before, after = self.widths[0::2], self.widths[1::2]
        return graph.add("Pad", x, graph.numbers(0, 0, *before, 0, 0, *after))


class ChannelNorm(BatchNorm):
    """Batch norm of features [.., N, C, *S] over rows and space (Ioffe and Szegedy 2015, section 3.2)."""

    def __init__(self, features: int, axes: int) -> None:
        super().__init__(features)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Normalized features of the same shape."""
        return on_rows(self._normalized, x, self.axes)


def drop_channels(x: Tensor, gate: Gate, site: Site, axes: int) -> Tensor:
    """Whole channels of features [.., N, C, *S] gated, each mask shared over space (Tompson et al. 2015)."""
    if isinstance(gate, Watcher):  # each place is a row of its own
        gate.watch(x.movedim(-axes - 1, -1).flatten(0, -2), site)
    if not site.rate:
        return x
    ones = x.new_ones(x.shape[:-axes])
    mask = gate(ones, site)
    return x if mask is ones else x * mask[(..., *(None,) * axes)]


def pool(x: Tensor, kind: str, axes: int) -> Tensor:
    """2x2 (or 2) windows pooled, what is left over at the end dropped."""
    if kind == "none":
        return x
    if axes == 1:
        return on_rows(lambda rows: F.max_pool1d(rows, 2) if kind == "max" else F.avg_pool1d(rows, 2), x, 1)
    return on_rows(lambda rows: F.max_pool2d(rows, 2) if kind == "max" else F.avg_pool2d(rows, 2), x, 2)


def exported_pool(graph: Graph, x: str, kind: str, axes: int) -> str:
    """The operator of `pool`."""
    windows: dict[str, tuple[int, ...]] = {"kernel_shape": (2,) * axes, "strides": (2,) * axes}
    return x if kind == "none" else graph.add("MaxPool" if kind == "max" else "AveragePool", x, **windows)


def toeplitz_entries(layer: nn.Module, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Weights of the matrix without sharing: every output channel and place from every input channel and place within its kernel.

    Counts the entries that a convolution's Toeplitz matrix has, zeros of the padding left out.
    """
    convolved = next(module for module in layer.modules() if isinstance(module, nn.Conv1d | nn.Conv2d))
    padding = _padding(layer, convolved)
    taps = 1
    for axis, (extent, places) in enumerate(zip(before, after, strict=True)):
        kernel, stride = convolved.kernel_size[axis], convolved.stride[axis]
        starts = [place * stride - padding for place in range(places)]
        taps *= sum(min(start + kernel, extent) - max(start, 0) for start in starts)
    return taps * convolved.in_channels * convolved.out_channels


def _padding(layer: nn.Module, convolved: nn.Conv1d | nn.Conv2d) -> int:
    padded = next((module for module in layer.modules() if isinstance(module, Pad)), None)
    return padded.widths[0] if padded is not None else int(convolved.padding[0])


def extents_after(extents: tuple[int, ...], kernel: Kernel) -> tuple[int, ...]:
    """Space after a convolution of `convolution`'s padding."""
    size, stride = kernel
    reach = 2 * (size // 2) if size % 2 else size - 1
    return tuple((extent + reach - size) // stride + 1 for extent in extents)
