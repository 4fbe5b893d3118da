"""The architecture `layers`: named layers in a list, whose shapes follow from the inputs'."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.architecture import HEADS, Begun, Trunk
from service.nets.base import exported, linear
from service.nets.convolution import Kernel, Start, convolution
from service.nets.holding import Holding, Memory
from service.nets.layer import Earlier, Making, Placed, Run, Shape, Unfit, Writing, channels_first, exported_reshape, shown
from service.nets.layers import (
    CODE,
    MOST_LAYERS,
    Layers,
    NamedLayer,
    ResidualLayer,
    check,
    christened,
    count,
    every,
    exported_steps,
    of_kind,
    passed,
)
from service.nets.norm_layers import BatchNormLayer
from service.nets.plain_layers import ActivationLayer, DropoutLayer, reshaped
from service.nets.pooling_layers import MaxPoolLayer, UnpoolLayer
from service.nets.upsampling import checkerboard
from service.nets.weighted_layers import LinearLayer, TransposedConvolutionLayer
from service.onnx.graph import Graph
from service.tricks.choices import AtMost, refuse
from service.tricks.dropout import Gate
from service.values import ITEMS


class Sequential(Begun):
    """Named layers, one after the other, and heads behind the last one, or behind the one called code, from which others decode."""

    type: Literal["layers"] = "layers"
    """Named layers."""
    layers: Annotated[Layers, ITEMS, AtMost(256), Field(examples=[[{"type": "flatten"}, {"type": "linear", "width": 32}]])]
    """The layers in their order; none makes a linear model."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "layers" not in value:
            return value
        if (layers := count(value["layers"])) > MOST_LAYERS:
            message = f"{layers} layers, bridged ones included; there may be at most {MOST_LAYERS}"
            raise refuse("value-out-of-range", message, pointer="/layers")
        return {**value, "layers": christened(value["layers"])}

    @model_validator(mode="after")
    def _refers(self) -> "Sequential":
        check(self.layers)
        return self

    @property
    def reconstructs(self) -> bool:
        return any(layer.name == CODE for layer in self.layers)

    @property
    def coder(self) -> str | None:
        return f"/layers/{self.encoder - 1}" if self.reconstructs else None

    @property
    def encoder(self) -> int:
        """How many of the layers come before what heads read."""
        return next((i + 1 for i, layer in enumerate(self.layers) if layer.name == CODE), len(self.layers))

    @property
    def normalizes(self) -> bool:
        return bool(of_kind(self.layers, BatchNormLayer))

    @property
    def bridged(self) -> bool:
        return bool(of_kind(self.layers, ResidualLayer))

    @property
    def droppable(self) -> int:
        return len(of_kind(self.layers, DropoutLayer))

    @property
    def drops(self) -> bool:
        return any(layer.drops for layer in of_kind(self.layers, DropoutLayer))

    @property
    def evenly(self) -> bool:
        rates = {layer.rate for layer in of_kind(self.layers, DropoutLayer)}
        return len(rates) < 2 and not any(isinstance(rate, tuple) for rate in rates)

    def dropping(self, rate: float) -> "Sequential":
        return self.model_copy(update={"layers": _dropping(self.layers, rate)})

    @property
    def shifts(self) -> bool:
        order = [layer for _, layer in every(self.layers)]
        first = next((i for i, layer in enumerate(order) if isinstance(layer, DropoutLayer) and layer.drops), len(order))
        return any(isinstance(layer, BatchNormLayer) for layer in order[first:])

    def placed(self, shape: Shape, kind: str) -> Earlier:
        """Each layer in its place, for inputs of this shape; raises Unfit."""
        found: Earlier = {}
        first = entered(shape, kind)
        last = passed(self.layers, first, found, "/layers")
        if self.reconstructs and len(last) > 1 and last[:-1] != first[:-1]:
            said = f"the way back to the inputs ends with {shown(last)}, which is neither features nor at the places of {shown(first)}"
            raise Unfit(said, f"/layers/{len(self.layers) - 1}")
        return found

    def fits(self, shape: tuple[int, ...], *, kind: str = "table") -> Iterator[Flaw]:
        try:
            self.placed(shape, kind)
        except Unfit as unfit:
            yield Flaw(unfit.pointer, unfit.code, str(unfit))

    def cautions(self) -> Iterator[Flaw]:
        for where, layer in every(self.layers):
            if isinstance(layer, TransposedConvolutionLayer) and checkerboard(layer.window):
                message = f"a kernel of {layer.kernel} with steps of {layer.stride} reaches places unequally often (checkerboard)"
                yield Flaw(f"{where}/kernel", "checkerboard", message)

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        return sum(each.layer.weights(each.before) for each in self.placed(shape, kind).values())

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "Chain":
        return Chain(self, shape, generator, kind=kind)


def entered(shape: Shape, kind: str) -> Shape:
    """The shape of rows with channels last, which images of one channel may leave out."""
    return (*shape, 1) if not shape or (kind == "image" and len(shape) == 2) else shape


def _dropping(layers: Layers, rate: float) -> Layers:
    """Layers with this rate in all dropout."""

    def changed(layer: NamedLayer) -> NamedLayer:
        if isinstance(layer, DropoutLayer):
            return layer.model_copy(update={"rate": rate})
        if isinstance(layer, ResidualLayer):
            return layer.model_copy(update={"layers": _dropping(layer.layers, rate), "shortcut": _dropping(layer.shortcut, rate)})
        return layer

    return tuple(map(changed, layers))


class Chain(Trunk):
    """The trunk of a `Sequential`."""

    def __init__(self, spec: Sequential, shape: Shape, generator: torch.Generator | None, *, kind: str) -> None:
        super().__init__()
        self.rank, self.entered, self.encoder = len(shape), entered(shape, kind), spec.encoder
        self.layers, self.placed, self.how = spec.layers, spec.placed(shape, kind), spec.init
        unpooled = {layer.of for layer in of_kind(spec.layers, UnpoolLayer)}
        kept = tuple(pool.label for pool in of_kind(spec.layers, MaxPoolLayer) if pool.label in unpooled)
        making = Making(self.placed, spec.init, generator, kept, {})
        self.layer = nn.ModuleList([making.made(layer) for layer in spec.layers])
        self.steps = making.steps
        self.inner = self._after(self.encoder)
        self.features = math.prod(self.inner)
        self.sites = tuple(step.site for step in self.steps.values() if step.site is not None)

    def _after(self, count: int) -> Shape:
        """The shape of what the first layers give."""
        return self.placed[self.layers[count - 1].label].after if count else self.entered

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """Features [.., N, F]."""
        return self.encode(x, gate)[0]

    def encode(self, x: Tensor, gate: Gate) -> tuple[Tensor, list[Tensor]]:
        """Features, and the switches of the poolings so far that are unpooled."""
        if len(self.entered) > self.rank:
            x = x.unsqueeze(-1)
        run, x = Run(gate, []), channels_first(x, self.entered)
        for step in islice(self.layer, self.encoder):
            x = step(x, run)
        return reshaped(x, self.inner, (self.features,)), run.switches

    def decode(self, features: Tensor, gate: Gate, kept: list[Tensor] | None = None) -> Tensor:
        """What the last layer gives [.., N, F] or [.., N, C, *S], from the code."""
        run, x = Run(gate, list(kept or ())), reshaped(features, (self.features,), self.inner)
        for step in islice(self.layer, self.encoder, None):
            x = step(x, run)
        return x

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        if len(self.entered) > self.rank:
            x = graph.add("Unsqueeze", x, graph.numbers(self.rank + 1))
        writing = self._writing(graph, [])
        axes = len(self.entered) - 1
        x = graph.add("Transpose", x, perm=(0, axes + 1, *range(1, axes + 1))) if axes in (1, 2) else x
        x = exported_steps(islice(self.layer, self.encoder), x, writing)
        return exported_reshape(graph, x, self.inner, (self.features,)), writing.kept

    def exported_decoding(self, graph: Graph, features: str, kept: list[str]) -> str:
        x = exported_reshape(graph, features, (self.features,), self.inner)
        return exported_steps(islice(self.layer, self.encoder, None), x, self._writing(graph, list(kept)))

    def _writing(self, graph: Graph, kept: list[str]) -> Writing:
        return Writing(graph, kept, {step: self.placed[name].before for name, step in self.steps.items()})

    def head(self, task: str, outputs: int, *, how: str, generator: torch.Generator | None) -> nn.Module:
        """Of reconstructions a linear layer, or over space a convolution of single places."""
        if task != "reconstruction":
            return super().head(task, outputs, how=how, generator=generator)
        last = self._after(len(self.layers))
        if len(last) == 1:
            return linear(last[0], outputs, bias=True, how=how, generator=generator)
        return Pixels(Start(len(last) - 1, how, generator), last, self.entered)

    def linears(self) -> dict[str, nn.Module]:
        return {name: step for name, step in self.steps.items() if step.learns}

    def named(self) -> dict[str, nn.Module]:
        return dict(self.steps)

    def readers(self) -> dict[str, tuple[str, ...]] | None:
        """Of a plain list whose dropout stands before linear layers or the heads."""
        found: dict[str, tuple[str, ...]] = {site.name: () for site in self.sites}
        for i, layer in enumerate(self.layers):
            if isinstance(layer, DropoutLayer) and layer.drops:
                after = self.layers[i + 1] if i + 1 < len(self.layers) else None
                if layer.channel or not isinstance(after, LinearLayer | None):
                    return None
                found[layer.label] = (after.label if after is not None else HEADS,)
        plain = not any(isinstance(layer, ResidualLayer) for layer in self.layers) and self.encoder == len(self.layers)
        return found if plain and not any(step.sort == "share" for step in self.steps.values()) else None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: each.after for name, each in self.placed.items()}

    def activations(self) -> dict[str, str]:
        return {name: each.layer.function for name, each in self.placed.items() if isinstance(each.layer, ActivationLayer)}

    def entries(self) -> int:
        return math.prod(self.entered) + sum(math.prod(each.after) for each in self.placed.values())

    def held(self) -> int:
        """What autograd keeps of each layer, and what a reconstruction's head takes."""
        holding = Holding(self.placed)
        last = holding.through(self.layers, Memory(math.prod(self.entered)))
        if self.encoder < len(self.layers):
            holding.keep(last)
        return holding.numbers

    def products(self) -> int:
        """Those of a layer that is used again are counted with the weights that it saves."""
        found = sum(each.layer.products(each, self.placed) for each in self.placed.values())
        return found - sum(self._again(each) for each in self.placed.values())

    def _again(self, placed: Placed) -> int:
        """Parameters that it uses of another layer."""
        return getattr(self.steps[placed.layer.label], "shared", 0)

    def repeated(self) -> int:
        return sum(each.layer.repeated(each, self.placed) for each in self.placed.values())


class Pixels(nn.Module):
    """The head of reconstructions over space: what stands at a place, of the channels there; rows are flat, with channels last."""

    def __init__(self, start: Start, before: Shape, row: Shape) -> None:
        super().__init__()
        self.conv = convolution(start, before[-1], row[-1], Kernel(1), bias=True)
        self.places, self.out_features = math.prod(row[:-1]), math.prod(row)
        self.row = row

    def forward(self, x: Tensor) -> Tensor:
        """[.., N, entries] of [.., N, C, *S]."""
        found: Tensor = self.conv(x)
        return reshaped(found, self.row, (self.out_features,))

    def exported(self, graph: Graph, x: str) -> str:
        """[N, entries] of [N, C, *S]."""
        return exported_reshape(graph, exported(self.conv, graph, x), self.row, (self.out_features,))

    def repeated(self) -> int:
        """How many more weights there would be, were none used at several places."""
        weights = sum(parameter.numel() for parameter in self.conv.parameters() if parameter.ndim > 1)
        return weights * (self.places - 1)
