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
        """Rows [.., N, *shape] as [.., N, C, *S]; a view, which convolutions take as they take channels last.

        The one channel of grey images is last in memory as well: kernels for channels last take a sixth to a third less time.
        """
        return (x.unsqueeze(-1) if self._grey else x).movedim(-1, -self.axes - 1)

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
    pads = tuple(int(width) for width in layer.padding)
    how = {"strides": tuple(layer.stride), "dilations": tuple(layer.dilation), "pads": (*pads, *pads)}
    return graph.add("Conv", x, *held(graph, layer.weight, layer.bias), group=layer.groups, **how)


class Kernel(NamedTuple):
    """Extent, step and spread of a kernel and the zeros around space, the same in all axes."""

    extent: int
    stride: int = 1
    dilation: int = 1
    """Steps from one entry of the kernel to the next."""
    padding: int | None = None
    """Zeros at each end; None: as many as keep the extents with stride 1."""

    @property
    def reach(self) -> int:
        """Places from its first entry to its last."""
        return self.dilation * (self.extent - 1)

    @property
    def paddings(self) -> tuple[int, int]:
        """Zeros before and after each axis; to keep the extents, one more after it where their number is odd."""
        return (self.reach // 2, self.reach - self.reach // 2) if self.padding is None else (self.padding, self.padding)


HALVING = Kernel(2, 2, padding=0)
"""The windows of poolings where nothing else is said."""


class Start(NamedTuple):
    """Axes of space, how weights begin, and the generator that they come from; without one they stay unset."""

    axes: int
    how: str
    generator: torch.Generator | None


def convolution(start: Start, inputs: int, outputs: int, kernel: Kernel, *, bias: bool, groups: int = 1) -> nn.Module:
    """A convolution padded as the kernel says."""
    kind, (before, after) = Conv1d if start.axes == 1 else Conv2d, kernel.paddings
    layer = kind(
        inputs, outputs, kernel.extent, stride=kernel.stride, dilation=kernel.dilation,
        padding=before if before == after else 0, groups=groups, bias=bias,
    )  # fmt: skip
    if start.generator is not None:
        initialize(layer, start.how, start.generator)
    return layer if before == after else nn.Sequential(Pad(start.axes, kernel), layer)


class Pad(nn.Module):
    """Zeros around space, where there is one more at the end than at the beginning."""

    def __init__(self, axes: int, kernel: Kernel) -> None:
        super().__init__()
        self.widths = [*kernel.paddings] * axes

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


def exported_pool(graph: Graph, x: str, kind: str, axes: int, window: Kernel = HALVING) -> str:
    """The operator of `pool`, or of poolings with other windows."""
    windows: dict[str, tuple[int, ...]] = {"kernel_shape": (window.extent,) * axes, "strides": (window.stride,) * axes}
    return x if kind == "none" else graph.add("MaxPool" if kind == "max" else "AveragePool", x, **windows)


def toeplitz_entries(weights: int, kernel: Kernel, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Weights that the convolution from extents `before` to `after` has without sharing: those of its Toeplitz matrix.

    Each of its own weights once for every place whose window has it on an input; those on the padding's zeros are left out.
    """
    inside = 1
    for extent, places in zip(before, after, strict=True):
        shifts = [kernel.paddings[0] - kernel.dilation * entry for entry in range(kernel.extent)]
        ends = [(max(0, -(-shift // kernel.stride)), min(places - 1, (extent - 1 + shift) // kernel.stride)) for shift in shifts]
        inside *= sum(max(0, last - first + 1) for first, last in ends)
    return weights // int(kernel.extent ** len(before)) * inside


def extents_after(extents: tuple[int, ...], kernel: Kernel) -> tuple[int, ...]:
    """Space after a convolution; an extent of 0 or less is none."""
    return tuple((extent + sum(kernel.paddings) - kernel.reach - 1) // kernel.stride + 1 for extent in extents)
