"""What every architecture says of itself, and what every trunk that is built from one can do."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from service.errors import Conflict, Flaw
from service.nets.activations import ActivationName
from service.nets.base import linear
from service.onnx.graph import Graph
from service.tricks.dropout import Dropout, DropoutRates, Gate, Site
from service.values import Value

Width = Annotated[int, Field(ge=1)]
HEADS, DECODED = "heads", "decoded"
"""Among the readers of units: the heads, and those of reconstructions."""


class Trunk(nn.Module):
    """Features of normalized inputs: everything between preprocessing and heads."""

    features: int
    """Width of the features that heads take."""
    sites: tuple[Site, ...]
    """Where units can be dropped, in forward order."""

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """Features [.., N, F] of normalized inputs [.., N, *shape]."""
        raise NotImplementedError

    def linears(self) -> dict[str, nn.Module]:
        """Layers with weights by their stable names, in forward order."""
        raise NotImplementedError

    def readers(self) -> dict[str, tuple[str, ...]] | None:
        """By site the layers that read its units, `HEADS` and `DECODED` being heads; None where units are also read without weights."""
        return None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each named layer's output for one row."""
        raise NotImplementedError

    def entries(self) -> int:
        """Numbers that a forward pass holds of one row: inputs and each layer's outputs."""
        return sum(site.units for site in self.sites)

    def held(self) -> int:
        """Numbers that training holds of one row from its forward pass to its backward pass; where they are not counted, at most these."""
        return 2 * self.entries()

    def products(self) -> int:
        """Multiplications of a forward pass of one row: one for each weight, where each is used once."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.ndim > 1)

    def repeated(self) -> int:
        """How many more weights there would be, were none used at several places or steps: those of Toeplitz matrices."""
        return 0

    def named(self) -> dict[str, nn.Module]:
        """All layers by their names, in forward order: those with weights, and what else has a name."""
        return self.linears()

    def activations(self) -> dict[str, str]:
        """The activations of what sites see, by their names; those of the layers of that name."""
        raise NotImplementedError

    def encode(self, x: Tensor, gate: Gate) -> tuple[Tensor, list[Tensor]]:
        """Features, and what `decode` needs besides of how they came about."""
        return self(x, gate), []

    def decode(self, features: Tensor, gate: Gate, kept: list[Tensor] | None = None) -> Tensor:
        """What a reconstruction's head takes: the features themselves, where nothing decodes them."""
        return features

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        """The ONNX operators of `encode`, weight-scaled, on normalized rows: features, and what `exported_decoding` needs besides."""
        raise Conflict("not-exportable", f"This release does not write networks of the kind {type(self).__name__} as ONNX.")

    def exported_decoding(self, graph: Graph, features: str, kept: list[str]) -> str:
        """Those of `decode`."""
        return features

    def head(self, task: str, outputs: int, *, how: str, generator: torch.Generator | None) -> nn.Module:
        """The layer from features to the raw outputs of a target of this task."""
        return linear(self.features, outputs, bias=True, how=how, generator=generator)


class Drawing(Value):
    """An architecture's fields and what checks and training ask of them; the defaults are those of a net that has nothing of it."""

    dense: ClassVar[bool] = False
    """Whether every unit of a layer feeds every unit of the next."""

    @property
    def reconstructs(self) -> bool:
        """Whether it has a decoder, and so a reconstruction of its inputs to be judged by."""
        return False

    @property
    def coder(self) -> str | None:
        """Which of its layers makes one that reconstructs do so, by its place within the architecture; None where that is its kind."""
        return None

    @property
    def normalizes(self) -> bool:
        """Whether it has batch norm, so that training and evaluation differ in more than dropout."""
        return False

    @property
    def bridged(self) -> bool:
        """Whether paths lead around layers, so that a layer without units does not cut inputs off."""
        return False

    @property
    def droppable(self) -> int:
        """How many hidden layers have a rate of dropping."""
        return 0

    @property
    def drops(self) -> bool:
        """Whether training drops any unit."""
        return False

    @property
    def evenly(self) -> bool:
        """Whether one rate stands for all hidden units."""
        return True

    def dropping(self, rate: float) -> Self:
        """The same with this rate of dropping for all hidden units; inputs keep theirs."""
        return self

    def narrowed(self, widths: tuple[int, ...]) -> Self | None:
        """The same with these widths of its hidden layers; None where units cannot be taken out."""
        return None

    @property
    def shifts(self) -> bool:
        """Whether units are dropped before a batch norm, which then sees another variance in training than later."""
        return self.normalizes and self.drops

    @property
    def start(self) -> Literal["torch", "he", "glorot"]:
        """How weights of heads begin."""
        return "torch"

    @property
    def logit_factor(self) -> float:
        """A fixed factor on logits, in training and after."""
        return 1.0

    def fits(self, shape: tuple[int, ...], *, kind: str = "table") -> Iterator[Flaw]:
        """What keeps it from taking rows of this shape and kind (table, image or tensor); pointers are within the architecture."""
        yield from ()

    def cautions(self) -> Iterator[Flaw]:
        """What is allowed and seldom wished; pointers are within the architecture."""
        yield from ()

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        """How many weights the trunk has for inputs of this shape, counted without building it."""
        raise NotImplementedError

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> Trunk:
        """The trunk for inputs of this shape; without a generator its weights stay unset."""
        raise NotImplementedError


class Thinned(Drawing):
    """What architectures of hidden layers have, each with a rate of dropping its units."""

    dropout: DropoutRates | None = None
    """Rates of dropping units; a number is the rate of hidden ones."""

    def check_rates(self) -> None:
        """Raises where a list of rates has not one for each hidden layer, or a layer's list not one for each unit."""
        if self.dropout:
            self.dropout.check(self.rated)

    @property
    def rated(self) -> tuple[int, ...]:
        """Widths of the hidden layers that have a rate of dropping, in the order of the rates."""
        return ()

    @property
    def droppable(self) -> int:
        return len(self.rated)

    @property
    def drops(self) -> bool:
        rates = self.dropout
        return rates is not None and (rates.input > 0 or rates.channel > 0 or any(rates.hidden_rates(self.droppable)))

    @property
    def evenly(self) -> bool:
        return self.dropout is None or not isinstance(self.dropout.hidden, tuple)

    def dropping(self, rate: float) -> Self:
        return self.model_copy(update={"dropout": (self.dropout or Dropout()).model_copy(update={"hidden": rate})})


class Begun(Drawing):
    """What architectures have whose weights begin in a way of choice, and whose logits may have a factor."""

    init: Literal["torch", "he", "glorot"] = "torch"
    """How weights start."""
    logit_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """A fixed factor on logits, in training and after."""

    @property
    def start(self) -> Literal["torch", "he", "glorot"]:
        return self.init

    @property
    def logit_factor(self) -> float:
        return self.logit_scale


class Feedforward(Thinned, Begun):
    """What perceptrons and convolutional networks have."""

    activation: ActivationName = "relu"
    """After each layer but the heads."""
    batch_norm: bool = False
    """Whether layers but the heads are batch-normalized."""

    @property
    def normalizes(self) -> bool:
        return self.batch_norm
