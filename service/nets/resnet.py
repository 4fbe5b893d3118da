"""Residual networks in the style of CIFAR (He et al. 2016, "Deep residual learning", section 4.2; "Identity mappings", section 3).

Shortcuts that change the shape take every second place and pad channels with zeros (option A): they have no parameters, so that the
twin without them, `residual: false`, has as many.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.architecture import Thinned, Trunk
from service.nets.base import exported
from service.nets.convolution import ChannelNorm, Kernel, Space, Start, convolution, drop_channels, extents_after, spatial, toeplitz_entries
from service.onnx.graph import Graph
from service.tricks.choices import refuse
from service.tricks.dropout import Dropout, Gate, Site

LAYERS = {"basic": 2, "preactivation": 2, "bottleneck": 3}
EXPANSION = {"basic": 1, "preactivation": 1, "bottleneck": 4}
STAGES = 3


class ResNet(Thinned):
    """A stem and three stages of blocks at full, half and quarter size, then the mean over space. Images and sequences."""

    type: Literal["resnet"] = "resnet"
    """Residual network."""
    depth: Annotated[int, Field(ge=8, le=1202)] = 20
    """Layers with weights, the head's among them: 6n + 2, of bottlenecks 9n + 2."""
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the first stage; each further one has twice as many."""
    block: Literal["basic", "bottleneck", "preactivation"] = "basic"
    """Two convolutions; three, of which the middle one is narrow; two behind batch norm and ReLU."""
    residual: bool = True
    """Whether blocks are bridged; false makes the plain twin with as many parameters."""
    zero_init: bool = False
    """Whether the last gain of each block starts at 0, so that blocks begin as the identity."""

    @model_validator(mode="after")
    def _fits(self) -> "ResNet":
        step = 3 * LAYERS[self.block]
        if (self.depth - 2) % step:
            near = max(1, round((self.depth - 2) / step)) * step + 2
            raise refuse("inconsistent-spec", f"a {self.block} resnet has {step}n + 2 layers; the nearest is {near}", pointer="/depth")
        self.check_rates()
        return self

    @property
    def normalizes(self) -> bool:
        return True

    @property
    def bridged(self) -> bool:
        return self.residual

    @property
    def rated(self) -> tuple[int, ...]:
        return (self.outputs,)

    @property
    def blocks(self) -> int:
        """Of each stage."""
        return (self.depth - 2) // (3 * LAYERS[self.block])

    @property
    def outputs(self) -> int:
        """Channels of the last stage."""
        return (self.width << STAGES - 1) * EXPANSION[self.block]

    def fits(self, shape: tuple[int, ...], *, kind: str = "table") -> Iterator[Flaw]:
        yield from spatial(shape, kind)

    def plan(self, inputs: int, width: int, stride: int) -> list[tuple[int, int, Kernel]]:
        """The convolutions of a block: inputs, outputs, kernel."""
        outputs = width * EXPANSION[self.block]
        if self.block == "bottleneck":
            return [(inputs, width, Kernel(1)), (width, width, Kernel(3, stride)), (width, outputs, Kernel(1))]
        return [(inputs, width, Kernel(3, stride)), (width, outputs, Kernel(3))]

    def plans(self) -> Iterator[tuple[str, list[tuple[int, int, Kernel]]]]:
        """All blocks by name, in forward order."""
        inputs = self.width
        for stage in range(STAGES):
            width = self.width * 2**stage
            for block in range(self.blocks):
                yield f"stage.{stage}.block.{block}", self.plan(inputs, width, 2 if stage and not block else 1)
                inputs = width * EXPANSION[self.block]

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        space = Space(shape, kind)
        layers = [(space.channels, self.width, Kernel(3)), *(layer for _, plan in self.plans() for layer in plan)]
        return sum(inputs * outputs * kernel.extent**space.axes for inputs, outputs, kernel in layers)

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "Residual":
        return Residual(self, Space(shape, kind), generator)


class Residual(Trunk):
    """The trunk of a `ResNet`: features [.., N, C] are means over space."""

    def __init__(self, spec: ResNet, space: Space, generator: torch.Generator | None) -> None:
        super().__init__()
        dropout, start = spec.dropout or Dropout(), Start(space.axes, "he", generator)
        self.space, self.before, self.features = space, spec.block == "preactivation", spec.outputs
        self.stem = Normed(start, space.channels, spec.width, Kernel(3), norm="none" if self.before else "after")
        plans = list(spec.plans())
        made = [Block(spec, start, plan) for _, plan in plans]
        stages = [nn.ModuleList(made[at : at + spec.blocks]) for at in range(0, len(made), spec.blocks)]
        self.stage = nn.ModuleList(nn.ModuleDict({"block": blocks}) for blocks in stages)
        sites = [Site(name, plan[-1][1], dropout.channel) for name, plan in plans]
        self.norm = ChannelNorm(spec.outputs, space.axes) if self.before else None
        (rate,) = dropout.hidden_rates(1)
        self.channels, self.pooled = tuple(sites), Site("pooled", spec.outputs, rate)
        self.sites = (Site("input", torch.Size(space.shape).numel(), dropout.input), *sites, self.pooled)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        axes = self.space.axes
        x = self.space.channels_first(self.space.gated(x, gate, self.sites[0]))
        x = self.stem(x) if self.before else F.relu(self.stem(x))
        for block, site in zip(self.blocks(), self.channels, strict=True):
            x = drop_channels(block(x), gate, site, axes)
        if self.norm is not None:
            x = F.relu(self.norm(x))
        return gate(x.flatten(-axes).mean(-1), self.pooled)

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        x = self.stem.exported(graph, self.space.exported(graph, x))
        x = x if self.before else graph.add("Relu", x)
        for block in self.blocks():
            x = block.exported(graph, x)
        if self.norm is not None:
            x = graph.add("Relu", self.norm.exported(graph, x))
        return graph.add("Flatten", graph.add("GlobalAveragePool", x)), []

    def blocks(self) -> list["Block"]:
        """All blocks in forward order."""
        return [block for stage in self.stage for block in stage["block"]]  # type: ignore[index]

    def linears(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"stem": self.stem}
        for site, block in zip(self.channels, self.blocks(), strict=True):
            found |= {f"{site.name}.conv.{i}": layer for i, layer in enumerate(block.conv)}
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        extents = self.space.extents
        found = {"stem": (*extents, self.stem.outputs)}
        for site, block in zip(self.channels, self.blocks(), strict=True):
            for i, layer in enumerate(block.normed()):
                extents = extents_after(extents, layer.kernel)
                found[f"{site.name}.conv.{i}"] = (*extents, layer.outputs)
        return found

    def entries(self) -> int:
        return self.sites[0].units + 3 * sum(math.prod(shape) for shape in self.shapes().values())

    def held(self) -> int:
        """Inputs, of each convolution what batch norm and ReLU see of it, and of a block whose channels are dropped its product."""
        shapes = self.shapes()
        last = len(self.blocks()[0].conv) - 1
        dropped = sum(math.prod(shapes[f"{site.name}.conv.{last}"]) for site in self.channels if site.rate)
        return self.sites[0].units + 2 * sum(math.prod(shape) for shape in shapes.values()) + dropped

    def products(self) -> int:
        layers, shapes = self.linears(), self.shapes()
        weights = {name: sum(p.numel() for p in layer.parameters() if p.ndim > 1) for name, layer in layers.items()}
        return sum(count * math.prod(shapes[name][:-1]) for name, count in weights.items())

    def repeated(self) -> int:
        before, shapes, found = self.space.extents, self.shapes(), 0
        layers = [self.stem, *(layer for block in self.blocks() for layer in block.normed())]
        for layer, shape in zip(layers, shapes.values(), strict=True):
            weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
            found += toeplitz_entries(weights, layer.kernel, before, shape[:-1]) - weights
            before = shape[:-1]
        return found

    def activations(self) -> dict[str, str]:
        return dict.fromkeys((site.name for site in self.channels), "identity" if self.before else "relu")


class Normed(nn.Module):
    """A convolution without bias and its batch norm, which in a pre-activation block is that of its inputs."""

    def __init__(self, start: Start, inputs: int, outputs: int, kernel: Kernel, *, norm: Literal["none", "before", "after"]) -> None:
        super().__init__()
        self.outputs, self.kernel, self.first = outputs, kernel, norm == "before"
        self.conv = convolution(start, inputs, outputs, kernel, bias=False)
        self.norm = None if norm == "none" else ChannelNorm(inputs if self.first else outputs, start.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Norm of the convolution, or convolution of the norm's positive part."""
        if self.norm is None:
            found: Tensor = self.conv(x)
        else:
            found = self.conv(F.relu(self.norm(x))) if self.first else self.norm(self.conv(x))
        return found

    def exported(self, graph: Graph, x: str) -> str:
        """Features [N, C, *S]."""
        if self.norm is not None and self.first:
            x = graph.add("Relu", self.norm.exported(graph, x))
        x = exported(self.conv, graph, x)
        return x if self.norm is None or self.first else self.norm.exported(graph, x)


class Block(nn.Module):
    """Two or three convolutions and the bridge around them."""

    def __init__(self, spec: ResNet, start: Start, plan: Sequence[tuple[int, int, Kernel]]) -> None:
        super().__init__()
        self.before, self.residual, self.axes = spec.block == "preactivation", spec.residual, start.axes
        self.conv = nn.ModuleList([Normed(start, *each, norm="before" if self.before else "after") for each in plan])
        self.stride, self.more = max(kernel.stride for _, _, kernel in plan), plan[-1][1] - plan[0][0]
        last = self.normed()[-1].norm
        if spec.zero_init and last is not None:
            nn.init.zeros_(last.weight)

    def normed(self) -> list[Normed]:
        """The convolutions in forward order."""
        return [layer for layer in self.conv if isinstance(layer, Normed)]

    def forward(self, x: Tensor) -> Tensor:
        """Features [.., N, C, *S] of [.., N, C', *S']."""
        found = x
        for i, layer in enumerate(self.conv):
            found = layer(found if self.before or not i else F.relu(found))
        if self.residual:
            found = found + self.bridge(x)
        return found if self.before else F.relu(found)

    def bridge(self, x: Tensor) -> Tensor:
        """The identity; where the shape changes every second place, with zeros for the channels that come in addition (option A)."""
        if self.stride > 1:
            x = x[..., :: self.stride] if self.axes == 1 else x[..., :: self.stride, :: self.stride]
        return F.pad(x, [0, 0] * self.axes + [0, self.more]) if self.more else x

    def exported(self, graph: Graph, x: str) -> str:
        """Features [N, C, *S]."""
        found = x
        for i, layer in enumerate(self.normed()):
            found = layer.exported(graph, found if self.before or not i else graph.add("Relu", found))
        if self.residual:
            found = graph.add("Add", found, self._exported_bridge(graph, x))
        return found if self.before else graph.add("Relu", found)

    def _exported_bridge(self, graph: Graph, x: str) -> str:
        axes = self.axes
        if self.stride > 1:
            first, end, space, step = (0,) * axes, (2**62,) * axes, range(2, axes + 2), (self.stride,) * axes
            x = graph.add("Slice", x, *(graph.numbers(*each) for each in (first, end, space, step)))
        return graph.add("Pad", x, graph.numbers(*[0] * (axes + 3), self.more, *[0] * axes)) if self.more else x
