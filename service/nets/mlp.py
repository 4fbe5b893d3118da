"""The multi-layer perceptron, plain or residual."""

import math
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.nets.activations import ACTIVATIONS, SEES_INPUTS, exported_activation
from service.nets.architecture import HEADS, Feedforward, Trunk, Width
from service.nets.base import BatchNorm, exported, linear
from service.onnx.graph import Graph
from service.tricks.choices import AtMost, refuse
from service.tricks.dropout import Dropout, Gate, Site
from service.values import ITEMS


class MLP(Feedforward):
    """Linear layers with activations; an empty `hidden` is a linear model. Inputs of any shape are flattened row-major."""

    dense: ClassVar[bool] = True

    type: Literal["mlp"] = "mlp"
    """Multi-layer perceptron."""
    hidden: Annotated[tuple[Width, ...], ITEMS, AtMost(128), Field(examples=[[64, 64]])]
    """Widths of the hidden layers; none makes a linear model."""
    bias: bool = True
    """Whether hidden layers have biases."""
    residual: bool = False
    """Whether pairs of layers after the first are bridged."""

    @model_validator(mode="after")
    def _fits(self) -> "MLP":
        self.check_rates()
        if self.residual and (len(self.hidden) % 2 == 0 or len(set(self.hidden)) > 1):
            message = "a residual mlp is a stem and pairs of layers, all of one width"
            raise refuse("inconsistent-spec", message, pointer="/hidden")
        return self

    @property
    def bridged(self) -> bool:
        return self.residual

    @property
    def rated(self) -> tuple[int, ...]:
        return self.hidden

    @property
    def shifts(self) -> bool:
        dropout = self.dropout or Dropout()
        # The last layer's units go to heads alone.
        before = (dropout.input, *dropout.hidden_rates(len(self.hidden)))[: len(self.hidden)]
        return self.batch_norm and any(before)

    def narrowed(self, widths: tuple[int, ...]) -> "MLP | None":
        return None if self.residual else self.model_copy(update={"hidden": widths})

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        return sum(before * after for before, after in pairwise((math.prod(shape), *self.hidden)))

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "Perceptron":
        """The trunk for inputs of this shape; without a generator its weights stay unset."""
        return Perceptron(self, torch.Size(shape), generator)


class Layer(nn.Module):
    """Linear, batch norm, activation."""

    def __init__(self, spec: MLP, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.linear = linear(inputs, outputs, bias=spec.bias, how=spec.init, generator=generator)
        self.norm = BatchNorm(outputs) if spec.batch_norm else None
        self.activation, self.name = ACTIVATIONS[spec.activation], spec.activation

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Features [.., N, F]; a residual input is added before the activation."""
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x if skip is None else x + skip)

    def exported(self, graph: Graph, x: str, skip: str | None = None) -> str:
        """Features [N, F]."""
        x = exported(self.linear, graph, x)
        x = x if self.norm is None else self.norm.exported(graph, x)
        return exported_activation(self.name, graph, x if skip is None else graph.add("Add", x, skip))


class Perceptron(Trunk):
    """The trunk of an `MLP`."""

    def __init__(self, spec: MLP, shape: torch.Size, generator: torch.Generator | None) -> None:
        super().__init__()
        self.rank = max(len(shape), 1)
        inputs = shape.numel()
        widths = (inputs, *spec.hidden)
        self.hidden = nn.ModuleList([Layer(spec, before, after, generator) for before, after in pairwise(widths)])
        self.residual, self.activation, self.normalizes = spec.residual, spec.activation, spec.batch_norm
        self.features = widths[-1]
        dropout = spec.dropout or Dropout()
        rates = dropout.hidden_rates(len(spec.hidden))
        hidden = [Site(f"hidden.{i}", width, rate) for i, (width, rate) in enumerate(zip(spec.hidden, rates, strict=True))]
        self.sites = (Site("input", inputs, dropout.input), *hidden)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        x = gate(x.flatten(-self.rank), self.sites[0])
        skip = x
        for i, (layer, site) in enumerate(zip(self.hidden, self.sites[1:], strict=True)):
            closes_pair = self.residual and i > 0 and i % 2 == 0
            x = gate(layer(x, skip if closes_pair else None), site)
            if i % 2 == 0:
                skip = x
        return x

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        skip = x = graph.add("Flatten", x)
        for i, layer in enumerate(self.layers()):
            x = layer.exported(graph, x, skip if self.residual and i > 0 and i % 2 == 0 else None)
            if i % 2 == 0:
                skip = x
        return x, []

    def layers(self) -> list[Layer]:
        """The hidden layers in forward order."""
        return [layer for layer in self.hidden if isinstance(layer, Layer)]

    def linears(self) -> dict[str, nn.Module]:
        return {f"hidden.{i}": layer for i, layer in enumerate(self.hidden)}

    def readers(self) -> dict[str, tuple[str, ...]] | None:
        layers = (*self.linears(), HEADS)
        return None if self.residual else {site.name: (layer,) for site, layer in zip(self.sites, layers, strict=True)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {site.name: (site.units,) for site in self.sites[1:]}

    def held(self) -> int:
        """Inputs, and of each layer what its activation gave, what it and batch norm were given, and a mask with its product."""
        each = 1 + self.normalizes + (self.activation in SEES_INPUTS)
        return self.sites[0].units + sum(site.units * (each + (2 if site.rate else 0)) for site in self.sites[1:])

    def activations(self) -> dict[str, str]:
        return dict.fromkeys(self.linears(), self.activation)
