"""The way back up: transposed convolution, y = W^T x with W the matrix of a convolution, and unpooling with a pooling's switches.

Features are [.., N, C, *S] with one or two axes of space.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.nets.base import held
from service.nets.convolution import HALVING, Conv1d, Conv2d, Kernel, Space, Start, extents_after, on_rows, toeplitz_entries
from service.nets.intervals import Interval, unpooled
from service.nets.switches import Switches
from service.onnx.graph import Graph

UP: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


def transposed(x: Tensor, weight: Tensor, kernel: Kernel, extents: tuple[int, ...], *, groups: int = 1) -> Tensor:
    """W^T x [N, C', *extents] of x [N, C, *S], W being `convolution`'s matrix from those extents; weight [C, C' / groups, *kernel].

    A strided convolution takes several extents to one, so that the extents wished have to be said (Dumoulin and Visin 2016,
    "A guide to convolution arithmetic", section 4).
    """
    axes, (before, after) = len(extents), kernel.paddings
    told = {"stride": kernel.stride, "dilation": kernel.dilation, "groups": groups}
    if before == after:
        reached = [(size - 1) * kernel.stride - 2 * before + kernel.reach + 1 for size in x.shape[2:]]
        more = [extent - got for extent, got in zip(extents, reached, strict=True)]
        return UP[axes](x, weight, padding=before, output_padding=more, **told)
    found = UP[axes](x, weight, **told)
    missing = [before + extent - got for extent, got in zip(extents, found.shape[2:], strict=True)]
    if max(missing) > 0:  # places that no window of the convolution reaches
        found = F.pad(found, [end for short in reversed(missing) for end in (0, max(short, 0))])
    for axis, extent in enumerate(extents):
        found = found.narrow(axis + 2, before, extent)
    return found


class TransposedConvolution(nn.Module):
    """A layer of `transposed` with a bias of its own; its weights are its own, or those of the convolution that it mirrors (tied)."""

    def __init__(self, start: Start, mirrored: Conv1d | Conv2d, kernel: Kernel, *, tied: bool) -> None:
        super().__init__()
        self.axes, self.kernel = start.axes, kernel
        self._source: tuple[Conv1d | Conv2d, ...] = (mirrored,) if tied else ()  # in a tuple, lest its parameters count twice
        self.outputs = mirrored.in_channels
        self.weight = None if tied else nn.Parameter(torch.empty_like(mirrored.weight))
        self.bias = nn.Parameter(torch.empty(self.outputs))
        if start.generator is not None:
            bound = (mirrored.out_channels * kernel.extent**start.axes) ** -0.5
            with torch.no_grad():
                for parameter in self.parameters():
                    nn.init.uniform_(parameter, -bound, bound, generator=start.generator)

    @property
    def shared(self) -> int:
        """Weights that another layer holds for it."""
        return sum(source.weight.numel() for source in self._source)

    @property
    def weights(self) -> Tensor:
        """Its own, or those that it mirrors."""
        return self.weight if self.weight is not None else next(iter(self._source)).weight

    def forward(self, x: Tensor, extents: tuple[int, ...]) -> Tensor:
        """[.., N, C', *extents] of [.., N, C, *S]."""
        found = on_rows(lambda rows: transposed(rows, self.weights, self.kernel, extents), x, self.axes)
        return found + self.bias.view(-1, *(1,) * self.axes)

    def exported(self, graph: Graph, x: str, extents: tuple[int, ...]) -> str:
        """[N, C', *extents] of [N, C, *S]."""
        return exported_transposed(graph, x, held(graph, self.weights, self.bias), self.kernel, extents)


def exported_transposed(graph: Graph, x: str, weights: list[str], kernel: Kernel, extents: tuple[int, ...], *, groups: int = 1) -> str:
    """The operator of `transposed` and its bias: what is beyond the extents is cut off, what is missing filled up."""
    axes, (before, _) = len(extents), kernel.paddings
    reached = [(places - 1) * kernel.stride + kernel.reach + 1 for places in extents_after(extents, kernel)]
    beyond = [size - before - extent for size, extent in zip(reached, extents, strict=True)]
    how = {
        "strides": (kernel.stride,) * axes,
        "dilations": (kernel.dilation,) * axes,
        "pads": (*[before] * axes, *(max(size, 0) for size in beyond)),
        "output_padding": tuple(max(-size, 0) for size in beyond),
    }
    return graph.add("ConvTranspose", x, *weights, group=groups, **how)


def max_pool(x: Tensor, axes: int, window: Kernel = HALVING) -> tuple[Tensor, Tensor]:
    """Windows pooled, and the switches: which entry of its plane each maximum was."""
    plane = x.flatten(0, -axes - 2)
    pool = F.max_pool1d if axes == 1 else F.max_pool2d
    values, switches = pool(plane, window.extent, window.stride, return_indices=True)
    return values.unflatten(0, x.shape[: -axes - 1]), switches.unflatten(0, x.shape[: -axes - 1])


def unpool(x: Tensor, switches: Tensor | Switches, extents: tuple[int, ...]) -> Tensor:
    """Each value at the place where its pooling found the maximum, zeros elsewhere: the pooling's transposed Jacobian (Zeiler 2014).

    Windows must not overlap: of two values at one place one would be lost.
    """
    if isinstance(switches, Switches):
        return cast(Tensor, unpooled(cast(Interval, x), switches))
    axes = len(extents)
    flat = x.new_zeros(*x.shape[:-axes], torch.Size(extents).numel())
    placed: Tensor = flat.scatter(-1, switches.flatten(-axes), x.flatten(-axes)).unflatten(-1, extents)
    return placed


def exported_max_pool(graph: Graph, x: str, axes: int, window: Kernel = HALVING) -> tuple[str, list[str]]:
    """The operators of `max_pool`: values, and for `exported_unpooling` the switches, which count through all rows, and x's shape."""
    values, switches = graph.several(2, "MaxPool", x, kernel_shape=(window.extent,) * axes, strides=(window.stride,) * axes)
    return values, [switches, graph.add("Shape", x)]


def exported_unpooling(graph: Graph, x: str, kept: list[str]) -> str:
    """The operators of `unpool`."""
    switches, shape = kept
    flat = graph.numbers(-1)
    empty = graph.add("Reshape", graph.add("Expand", graph.real(0.0), shape), flat)
    placed = graph.add("ScatterElements", empty, graph.add("Reshape", switches, flat), graph.add("Reshape", x, flat))
    return graph.add("Reshape", placed, shape)


def checkerboard(kernel: Kernel) -> bool:
    """Whether places of the output are reached by unequally many windows (Odena et al. 2016, "Checkerboard artifacts")."""
    return kernel.extent % kernel.stride != 0


class Painter(nn.Module):
    """The last transposed convolution, whose output is a row as it is stored: channels last, flat."""

    def __init__(self, layer: TransposedConvolution, space: Space) -> None:
        super().__init__()
        self.layer, self.space = layer, space
        self.out_features = math.prod(space.shape)

    def forward(self, x: Tensor) -> Tensor:
        """[.., N, entries] of [.., N, C, *S]."""
        painted: Tensor = self.layer(x, self.space.extents)
        return painted.movedim(-self.space.axes - 1, -1).flatten(-self.space.axes - 1)

    def exported(self, graph: Graph, x: str) -> str:
        """[N, entries] of [N, C, *S]."""
        axes = self.space.axes
        painted = self.layer.exported(graph, x, self.space.extents)
        return graph.add("Flatten", graph.add("Transpose", painted, perm=(0, *range(2, axes + 2), 1)))

    def repeated(self) -> int:
        """How many more weights there would be, were none used at several places."""
        weights, extents, kernel = self.layer.weights.numel(), self.space.extents, self.layer.kernel
        return toeplitz_entries(weights, kernel, extents, extents_after(extents, kernel)) - weights
