"""The dense autoencoder: rows through a narrow code and back."""

import math
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.nets.activations import ACTIVATIONS, SEES_INPUTS, ActivationName, exported_activation
from service.nets.architecture import DECODED, HEADS, Thinned, Trunk, Width
from service.nets.base import Linear, Transposed, exported, linear
from service.onnx.graph import Graph
from service.tricks.choices import AtMost
from service.tricks.dropout import Dropout, Gate, Site
from service.values import ITEMS


class Autoencoder(Thinned):
    """Linear layers down to a code and mirrored up again; code and reconstruction have no activation. Inputs are flattened row-major."""

    dense: ClassVar[bool] = True

    type: Literal["autoencoder"] = "autoencoder"
    """Dense autoencoder."""
    hidden: Annotated[tuple[Width, ...], ITEMS, AtMost(64)] = (128,)
    """Widths of the encoder's layers before the code, which the decoder mirrors; none makes a linear autoencoder."""
    code: Annotated[Width, Field(examples=[8])]
    """Width of the code."""
    activation: ActivationName = "relu"
    """After each hidden layer; the code is linear."""
    tied: bool = False
    """Whether the decoder's layers have the encoder's weights, transposed; biases are each layer's own."""

    @model_validator(mode="after")
    def _fits(self) -> "Autoencoder":
        self.check_rates()
        return self

    @property
    def reconstructs(self) -> bool:
        return True

    @property
    def rated(self) -> tuple[int, ...]:
        return *self.hidden, *reversed(self.hidden)

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        down = sum(before * after for before, after in pairwise((math.prod(shape), *self.hidden, self.code)))
        return down if self.tied else 2 * down

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "Coder":
        """The trunk for inputs of this shape; without a generator its weights stay unset."""
        return Coder(self, torch.Size(shape), generator)


class Coder(Trunk):
    """The trunk of an `Autoencoder`: its features are the code, which `decode` takes up to the last hidden layer."""

    def __init__(self, spec: Autoencoder, shape: torch.Size, generator: torch.Generator | None) -> None:
        super().__init__()
        self.rank, self.features, self.tied = max(len(shape), 1), spec.code, spec.tied
        self.function, self.activation = ACTIVATIONS[spec.activation], spec.activation
        widths = (shape.numel(), *spec.hidden, spec.code)
        down = [linear(before, after, bias=True, how="torch", generator=generator) for before, after in pairwise(widths)]
        self.encoder, self.code = nn.ModuleList(down[:-1]), down[-1]
        up = [self._mirror(layer, generator) for layer in reversed(down[1:])]
        self.decoder = nn.ModuleList(up)
        dropout, count = spec.dropout or Dropout(), len(spec.hidden)
        rates = dropout.hidden_rates(2 * count)
        self.sites = (
            Site("input", shape.numel(), dropout.input),
            *(Site(f"encoder.{i}", spec.hidden[i], rates[i]) for i in range(count)),
            Site("code", spec.code, 0.0),
            *(Site(f"decoder.{i}", spec.hidden[-1 - i], rates[count + i]) for i in range(count)),
        )

    def _mirror(self, layer: nn.Linear, generator: torch.Generator | None) -> nn.Module:
        """The layer that leads back: from the layer's outputs to what it takes."""
        if self.tied:
            return Transposed(layer, generator)
        return linear(layer.out_features, layer.in_features, bias=True, how="torch", generator=generator)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """The code [.., N, code]."""
        x = gate(x.flatten(-self.rank), self.sites[0])
        for layer, site in zip(self.encoder, self.sites[1:], strict=False):
            x = gate(self.function(layer(x)), site)
        return gate(self.code(x), self.sites[1 + len(self.encoder)])

    def decode(self, features: Tensor, gate: Gate, kept: list[Tensor] | None = None) -> Tensor:
        x = features
        for layer, site in zip(self.decoder, self.sites[2 + len(self.encoder) :], strict=True):
            x = gate(self.function(layer(x)), site)
        return x

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        x = graph.add("Flatten", x)
        for layer in self.encoder:
            x = exported_activation(self.activation, graph, exported(layer, graph, x))
        return exported(self.code, graph, x), []

    def exported_decoding(self, graph: Graph, features: str, kept: list[str]) -> str:
        x = features
        for layer in self.decoder:
            x = exported_activation(self.activation, graph, exported(layer, graph, x))
        return x

    def head(self, task: str, outputs: int, *, how: str, generator: torch.Generator | None) -> nn.Module:
        if task != "reconstruction":
            return super().head(task, outputs, how=how, generator=generator)
        first = self.encoder[0] if len(self.encoder) else self.code
        if not isinstance(first, Linear):
            raise TypeError("the encoder's layers are linear")
        return self._mirror(first, generator)

    def linears(self) -> dict[str, nn.Module]:
        down = {f"encoder.{i}": layer for i, layer in enumerate(self.encoder)}
        return {**down, "code": self.code, **{f"decoder.{i}": layer for i, layer in enumerate(self.decoder)}}

    def readers(self) -> dict[str, tuple[str, ...]] | None:
        if self.tied:  # one weight reads units of two sites
            return None
        layers = (*self.linears(), DECODED)
        readers = {site.name: (layer,) for site, layer in zip(self.sites, layers, strict=True)}
        return {**readers, "code": (*readers["code"], HEADS)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {site.name: (site.units,) for site in self.sites[1:]}

    def held(self) -> int:
        """As of an MLP, there and back."""
        each = 1 + (self.activation in SEES_INPUTS)
        return self.sites[0].units + sum(site.units * (each + (2 if site.rate else 0)) for site in self.sites[1:])

    def activations(self) -> dict[str, str]:
        return {name: "identity" if name == "code" else self.activation for name in self.linears()}
