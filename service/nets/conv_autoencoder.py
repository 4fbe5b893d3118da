"""The convolutional autoencoder: down to a code by convolutions, and up by what is transposed of them."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.architecture import Thinned, Trunk, Width
from service.nets.base import Transposed, exported, linear
from service.nets.convolution import (
    Conv1d,
    Conv2d,
    Kernel,
    Space,
    Start,
    convolution,
    drop_channels,
    extents_after,
    spatial,
    toeplitz_entries,
)
from service.nets.upsampling import (
    Painter,
    TransposedConvolution,
    checkerboard,
    exported_max_pool,
    exported_unpooling,
    max_pool,
    unpool,
)
from service.onnx.graph import Graph
from service.tricks.choices import AtMost
from service.tricks.dropout import Dropout, Gate, Site
from service.values import ITEMS


class ConvAutoencoder(Thinned):
    """Convolutions with ReLU that halve space, a code, and the mirror image of both. Images and sequences.

    Space is halved by steps of 2 and doubled by transposed convolution, or halved by max pooling and doubled by unpooling: each
    value goes back to where its maximum was (Zeiler and Fergus 2014, section 2.1). The code is linear.
    """

    type: Literal["conv_autoencoder"] = "conv_autoencoder"
    """Convolutional autoencoder."""
    channels: Annotated[tuple[Width, ...], ITEMS, Field(min_length=1, examples=[[16, 32]]), AtMost(16)]
    """Channels of the encoder's convolutions, which the decoder mirrors."""
    kernel: Annotated[int, Field(ge=1, le=31)] = 3
    """Extent of the kernels in each axis of space."""
    code: Width | None = None
    """Width of the code; null: the last convolution's features."""
    upsampling: Literal["transposed_convolution", "unpooling"] = "transposed_convolution"
    """How the decoder doubles space."""
    tied: bool = False
    """Whether the decoder's layers have the encoder's weights, transposed; biases are each layer's own."""

    @model_validator(mode="after")
    def _fits(self) -> "ConvAutoencoder":
        self.check_rates()
        return self

    @property
    def reconstructs(self) -> bool:
        return True

    @property
    def rated(self) -> tuple[int, ...]:
        return (self.code or 0,)

    @property
    def kernels(self) -> Kernel:
        """Of all convolutions."""
        return Kernel(self.kernel, 2 if self.upsampling == "transposed_convolution" else 1)

    def extents(self, space: Space) -> list[tuple[int, ...]]:
        """Space before each convolution, and of the code."""
        found = [space.extents]
        for _ in self.channels:
            after = extents_after(found[-1], self.kernels)
            found.append(tuple(extent // 2 for extent in after) if self.upsampling == "unpooling" else after)
        return found

    def fits(self, shape: tuple[int, ...], *, kind: str = "table") -> Iterator[Flaw]:
        flaws = list(spatial(shape, kind))
        yield from flaws
        if not flaws:
            gone = next((i for i, extents in enumerate(self.extents(Space(shape, kind))) if 0 in extents), None)
            if gone is not None:
                yield Flaw(f"/channels/{gone - 1}", "inconsistent-spec", f"nothing is left there of {list(Space(shape, kind).extents)}")

    def cautions(self) -> Iterator[Flaw]:
        if checkerboard(self.kernels):
            message = f"a kernel of {self.kernel} with steps of 2 reaches places unequally often (checkerboard); 4 does not"
            yield Flaw("/kernel", "checkerboard", message)

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        space = Space(shape, kind)
        down: int = sum(before * after * self.kernel**space.axes for before, after in pairwise((space.channels, *self.channels)))
        flat = self.channels[-1] * math.prod(self.extents(space)[-1]) * (self.code or 0)
        return (down + flat) * (1 if self.tied else 2)

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "ConvCoder":
        return ConvCoder(self, Space(shape, kind), generator)


class ConvCoder(Trunk):
    """The trunk of a `ConvAutoencoder`: its features are the code, which `decode` takes up to what the head paints from."""

    def __init__(self, spec: ConvAutoencoder, space: Space, generator: torch.Generator | None) -> None:
        super().__init__()
        self.space, self.kernel, self.tied, self.pools = space, spec.kernels, spec.tied, spec.upsampling == "unpooling"
        self.start, self.extents = Start(space.axes, "torch", generator), spec.extents(space)
        down = [convolution(self.start, *each, spec.kernels, bias=True) for each in pairwise((space.channels, *spec.channels))]
        self.encoder = nn.ModuleList(down)
        self.map = (spec.channels[-1], *self.extents[-1])
        flat = math.prod(self.map)
        self.code = linear(flat, spec.code, bias=True, how="torch", generator=generator) if spec.code else None
        self.features = spec.code or flat
        up: list[nn.Module] = []
        if self.code is not None:
            back = linear(self.features, flat, bias=True, how="torch", generator=None if spec.tied else generator)
            up.append(Transposed(self.code, generator) if spec.tied else back)
        up += [self._mirror(i) for i in reversed(range(1, len(down)))]
        self.decoder = nn.ModuleList(up)
        dropout = spec.dropout or Dropout()
        (rate,) = dropout.hidden_rates(1)
        self.channels = tuple(Site(f"encoder.{i}", count, dropout.channel) for i, count in enumerate(spec.channels))
        self.kept = Site("code", self.features, rate)
        self.sites = (Site("input", math.prod(space.shape), dropout.input), *self.channels, self.kept)

    def _mirror(self, i: int) -> TransposedConvolution:
        layer = next(module for module in self.encoder[i].modules() if isinstance(module, Conv1d | Conv2d))
        return TransposedConvolution(self.start, layer, self.kernel, tied=self.tied)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """The code [.., N, F]."""
        return self.encode(x, gate)[0]

    def encode(self, x: Tensor, gate: Gate) -> tuple[Tensor, list[Tensor]]:
        """The code, and the switches of each pooling."""
        axes, switches = self.space.axes, list[Tensor]()
        x = self.space.channels_first(self.space.gated(x, gate, self.sites[0]))
        for layer, site in zip(self.encoder, self.channels, strict=True):
            x = F.relu(layer(x))
            if self.pools:
                x, where = max_pool(x, axes)
                switches.append(where)
            x = drop_channels(x, gate, site, axes)
        x = x.flatten(-axes - 1)
        return gate(x if self.code is None else self.code(x), self.kept), switches

    def decode(self, features: Tensor, gate: Gate, kept: list[Tensor] | None = None) -> Tensor:
        """Features [.., N, C, *S] of the first convolution, from the code and the switches."""
        layers, x, switches = list(self.decoder), features, kept or []
        if self.code is not None:
            x = F.relu(layers.pop(0)(x))
        x = x.unflatten(-1, self.map)
        for i in reversed(range(len(self.encoder))):
            if self.pools:
                x = unpool(x, _fitting(switches[i], x), extents_after(self.extents[i], self.kernel))
            if i:
                x = F.relu(layers.pop(0)(x, self.extents[i]))
        return x

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        kept: list[str] = []
        x = self.space.exported(graph, x)
        for layer in self.encoder:
            x = graph.add("Relu", exported(layer, graph, x))
            if self.pools:
                x, own = exported_max_pool(graph, x, self.space.axes)
                kept += own
        x = graph.add("Flatten", x)
        return x if self.code is None else exported(self.code, graph, x), kept

    def exported_decoding(self, graph: Graph, features: str, kept: list[str]) -> str:
        ups, x = (layer for layer in self.decoder if isinstance(layer, TransposedConvolution)), features
        if self.code is not None:
            x = graph.add("Relu", exported(self.decoder[0], graph, x))
        x = graph.reshaped(x, *self.map)
        for i in reversed(range(len(self.encoder))):
            if self.pools:
                x = exported_unpooling(graph, x, kept[2 * i : 2 * i + 2])
            if i:
                x = graph.add("Relu", next(ups).exported(graph, x, self.extents[i]))
        return x

    def head(self, task: str, outputs: int, *, how: str, generator: torch.Generator | None) -> nn.Module:
        if task == "reconstruction":
            return Painter(self._mirror(0), self.space)
        return super().head(task, outputs, how=how, generator=generator)

    def linears(self) -> dict[str, nn.Module]:
        down = {f"encoder.{i}": layer for i, layer in enumerate(self.encoder)}
        code = {} if self.code is None else {"code": self.code}
        return {**down, **code, **{f"decoder.{i}": layer for i, layer in enumerate(self.decoder)}}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        down = {site.name: (*extents, site.units) for site, extents in zip(self.channels, self.extents[1:], strict=True)}
        up = [(*self.extents[i], self.channels[i - 1].units) for i in reversed(range(1, len(self.channels)))]
        flat = [] if self.code is None else [(math.prod(self.map),)]
        code = {} if self.code is None else {"code": (self.features,)}
        return {**down, **code, **{f"decoder.{i}": shape for i, shape in enumerate([*flat, *up])}}

    def activations(self) -> dict[str, str]:
        return {**dict.fromkeys((site.name for site in self.channels), "relu"), "code": "identity"}

    def entries(self) -> int:
        return 2 * sum(self._sizes())

    def held(self) -> int:
        """Inputs, what each layer gave, poolings with their 64-bit switches, what unpooling spread out, and padded copies."""
        down, up = self._sizes(), sum(math.prod(shape) for name, shape in self.shapes().items() if name.startswith("decoder"))
        if not self.pools:
            return sum(down) + up + self.features + (sum(down[:-1]) if self.kernel.extent % 2 == 0 else 0)
        spread = zip(self.channels, self.extents[:-1], strict=True)
        convolved = sum(site.units * math.prod(extents_after(before, self.kernel)) for site, before in spread)
        return down[0] + 2 * convolved + 3 * sum(down[1:]) + up + self.features

    def _sizes(self) -> list[int]:
        """Numbers of the inputs, and of what each convolution comes to."""
        stages = zip((self.space.channels, *(site.units for site in self.channels)), self.extents, strict=True)
        return [channels * math.prod(extents) for channels, extents in stages]

    def products(self) -> int:
        places = [math.prod(extents_after(extents, self.kernel)) for extents in self.extents[:-1]]
        down = sum(_weights(layer) * count for layer, count in zip(self.encoder, places, strict=True))
        up = sum(_weights(self.encoder[i]) * places[i] for i in range(1, len(places)))
        return down + up + (2 * self.code.weight.numel() if self.code is not None else 0)

    def repeated(self) -> int:
        found = 0
        for i, (layer, before) in enumerate(zip(self.encoder, self.extents, strict=False)):
            weights = _weights(layer)
            more = toeplitz_entries(weights, self.kernel, before, extents_after(before, self.kernel)) - weights
            found += 2 * more if i else more  # the first one's mirror image is the head
        return found


def _fitting(switches: Tensor, x: Tensor) -> Tensor:
    """Switches of rows that leading axes of x repeat."""
    return switches.expand(x.shape) if switches.ndim < x.ndim else switches


def _weights(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim > 1)
