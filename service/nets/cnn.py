"""The convolutional network: convolutions with pooling, then hidden layers as in a perceptron (LeCun et al. 1998)."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.activations import ACTIVATIONS, SEES_INPUTS, exported_activation
from service.nets.architecture import Feedforward, Trunk, Width
from service.nets.base import exported
from service.nets.convolution import (
    ChannelNorm,
    Kernel,
    Space,
    Start,
    convolution,
    drop_channels,
    exported_pool,
    extents_after,
    pool,
    spatial,
    toeplitz_entries,
)
from service.nets.mlp import MLP
from service.onnx.graph import Graph
from service.tricks.choices import AtMost
from service.tricks.dropout import Dropout, Gate, Site
from service.values import ITEMS


class CNN(Feedforward):
    """Convolutions that keep the size, each with batch norm, activation and pooling; then linear layers. Images and sequences."""

    type: Literal["cnn"] = "cnn"
    """Convolutional network."""
    channels: Annotated[tuple[Width, ...], ITEMS, Field(min_length=1, examples=[[16, 32]]), AtMost(64)]
    """Channels of the convolutions, in their order."""
    kernel: Annotated[int, Field(ge=1, le=31)] = 3
    """Extent of the kernels in each axis of space."""
    stride: Annotated[int, Field(ge=1, le=16)] = 1
    """Step of the kernels."""
    pool: Literal["max", "average", "none"] = "max"
    """Pooling of 2x2 windows after each convolution."""
    hidden: Annotated[tuple[Width, ...], ITEMS, AtMost(64)] = (128,)
    """Widths of the linear layers behind the convolutions."""

    @model_validator(mode="after")
    def _fits(self) -> "CNN":
        self.check_rates()
        return self

    @property
    def rated(self) -> tuple[int, ...]:
        return self.hidden

    def fits(self, shape: tuple[int, ...], *, kind: str = "table") -> Iterator[Flaw]:
        flaws = list(spatial(shape, kind))
        yield from flaws
        if flaws:
            return
        space = Space(shape, kind)
        gone = next((i for i, extents in enumerate(self.extents(space)) if 0 in extents), None)
        if gone is not None:
            yield Flaw(f"/channels/{gone}", "inconsistent-spec", f"nothing is left there of {list(space.extents)}: fewer, or pool none")

    def extents(self, space: Space) -> list[tuple[int, ...]]:
        """Space after each convolution and its pooling."""
        found: list[tuple[int, ...]] = []
        extents = space.extents
        for _ in self.channels:
            extents = extents_after(extents, Kernel(self.kernel, self.stride))
            extents = extents if self.pool == "none" else tuple(extent // 2 for extent in extents)
            found.append(extents)
        return found

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        space = Space(shape, kind)
        convolved: int = sum(before * after * self.kernel**space.axes for before, after in pairwise((space.channels, *self.channels)))
        return convolved + sum(before * after for before, after in pairwise((self.flat(space), *self.hidden)))

    def flat(self, space: Space) -> int:
        """Features behind the convolutions."""
        return self.channels[-1] * math.prod(self.extents(space)[-1])

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "Convolutional":
        return Convolutional(self, Space(shape, kind), generator)


class Convolutional(Trunk):
    """The trunk of a `CNN`."""

    def __init__(self, spec: CNN, space: Space, generator: torch.Generator | None) -> None:
        super().__init__()
        self.space, self.activation, self.normalizes, self.pooling = space, spec.activation, spec.batch_norm, spec.pool
        start = Start(space.axes, spec.init, generator)
        self.conv = nn.ModuleList([Stage(spec, start, before, after) for before, after in pairwise((space.channels, *spec.channels))])
        dropout, extents = spec.dropout or Dropout(), spec.extents(space)
        rates = Dropout(hidden=dropout.hidden)
        behind = MLP(hidden=spec.hidden, activation=spec.activation, batch_norm=spec.batch_norm, init=spec.init, dropout=rates)
        self.behind = behind.build((spec.flat(space),), generator)
        self.features = self.behind.features
        self.channels = tuple(Site(f"conv.{i}", channels, dropout.channel) for i, channels in enumerate(spec.channels))
        self.sites = (Site("input", math.prod(space.shape), dropout.input), *self.channels, *self.behind.sites[1:])
        self._extents = tuple(extents)
        self._kernel = Kernel(spec.kernel, spec.stride)
        self._before = tuple(extents_after(before, self._kernel) for before in (space.extents, *extents[:-1]))

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        x = self.space.channels_first(self.space.gated(x, gate, self.sites[0]))
        for stage, site in zip(self.conv, self.channels, strict=True):
            x = drop_channels(stage(x), gate, site, self.space.axes)
        features: Tensor = self.behind(x.flatten(-self.space.axes - 1), gate)
        return features

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        x = self.space.exported(graph, x)
        for stage in self.conv:
            x = exported(stage, graph, x)
        return self.behind.exported(graph, x)

    def linears(self) -> dict[str, nn.Module]:
        return {**{f"conv.{i}": stage for i, stage in enumerate(self.conv)}, **self.behind.linears()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        convolved = {site.name: (*extents, site.units) for site, extents in zip(self.channels, self._extents, strict=True)}
        return {**convolved, **self.behind.shapes()}

    def entries(self) -> int:
        """Inputs, and what each convolution gives before its pooling and after it."""
        convolved = sum(site.units * math.prod(extents) for site, extents in zip(self.channels, self._before, strict=True))
        return self.sites[0].units + 2 * convolved + self.behind.entries()

    def held(self) -> int:
        """As of an MLP, and what each pooling gave with the 64-bit places of its maxima."""
        each, pooled = 1 + self.normalizes + (self.activation in SEES_INPUTS), {"max": 3, "average": 1, "none": 0}[self.pooling]
        places = zip(self.channels, self._before, self._extents, strict=True)
        convolved = sum(site.units * (each * math.prod(before) + pooled * math.prod(after)) for site, before, after in places)
        return self.sites[0].units + convolved + self.behind.held() - self.behind.sites[0].units

    def products(self) -> int:
        each = zip(self.conv, self._before, strict=True)
        convolved = sum(p.numel() * math.prod(extents) for stage, extents in each for p in stage.parameters() if p.ndim > 1)
        return convolved + self.behind.products()

    def repeated(self) -> int:
        found = 0
        for stage, before, after in zip(self.conv, (self.space.extents, *self._extents[:-1]), self._before, strict=True):
            weights = sum(p.numel() for p in stage.parameters() if p.ndim > 1)
            found += toeplitz_entries(weights, self._kernel, before, after) - weights
        return found

    def activations(self) -> dict[str, str]:
        return dict.fromkeys(self.linears(), self.activation)


class Stage(nn.Module):
    """Convolution, batch norm, activation, pooling."""

    def __init__(self, spec: CNN, start: Start, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = convolution(start, inputs, outputs, Kernel(spec.kernel, spec.stride), bias=not spec.batch_norm)
        self.norm = ChannelNorm(outputs, start.axes) if spec.batch_norm else None
        self.function, self.activation, self.pooling, self.axes = ACTIVATIONS[spec.activation], spec.activation, spec.pool, start.axes

    def forward(self, x: Tensor) -> Tensor:
        """Features [.., N, C, *S] of [.., N, C', *S']."""
        x = self.conv(x)
        return pool(self.function(x if self.norm is None else self.norm(x)), self.pooling, self.axes)

    def exported(self, graph: Graph, x: str) -> str:
        """Features [N, C, *S]."""
        x = exported(self.conv, graph, x)
        x = x if self.norm is None else self.norm.exported(graph, x)
        return exported_pool(graph, exported_activation(self.activation, graph, x), self.pooling, self.axes)
