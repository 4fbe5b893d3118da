"""Recurrent networks over sequences [T, F]: long short-term memory, gated units, and the plain one."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.architecture import Drawing, Trunk, Width
from service.tricks.choices import AtMost
from service.tricks.dropout import Dropout, Gate, Site
from service.values import ITEMS

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
HELD = {"lstm": 19, "gru": 7, "rnn": 1}
"""Numbers of each unit and step that torch's cells hold on a CPU between a forward and a backward pass."""


class Recurrent(Drawing):
    """Layers of recurrent cells (LSTM: Hochreiter and Schmidhuber 1997; GRU: Cho et al. 2014); features are the last state.

    A unit that is dropped stays dropped over the whole sequence (Gal and Ghahramani 2016, "A theoretically grounded application
    of dropout in recurrent neural networks"): of inputs, and of each layer's outputs to the next. The state that a layer hands
    itself from step to step is not dropped.
    """

    type: Literal["recurrent"] = "recurrent"
    """Recurrent network."""
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """Long short-term memory, gated recurrent units, or a plain tanh cell."""
    hidden: Annotated[tuple[Width, ...], ITEMS, AtMost(32), Field(min_length=1)] = (64,)
    """Units of the layers."""
    bidirectional: bool = False
    """Whether each layer reads the sequence from its end as well, with units of its own."""

    @model_validator(mode="after")
    def _fits(self) -> "Recurrent":
        self.check_rates()
        return self

    @property
    def rated(self) -> tuple[int, ...]:
        return tuple(units * self.directions for units in self.hidden)

    @property
    def directions(self) -> int:
        """1, or 2 where sequences are read from both ends."""
        return 2 if self.bidirectional else 1

    def fits(self, shape: tuple[int, ...], *, kind: str = "table") -> Iterator[Flaw]:
        if kind != "tensor" or len(shape) != 2:
            shown = "a table" if kind == "table" else f"an {kind} {list(shape)}" if kind == "image" else f"{list(shape)}"
            yield Flaw("/type", "inconsistent-spec", f"it takes sequences [T, F], not {shown}")

    def weights(self, shape: tuple[int, ...], *, kind: str = "table") -> int:
        each, read = 0, shape[-1]
        for units in self.hidden:
            each += GATES[self.cell] * units * (read + units) * self.directions
            read = units * self.directions
        return each

    def build(self, shape: tuple[int, ...], generator: torch.Generator | None, *, kind: str = "table") -> "Layers":
        return Layers(self, shape, generator)


class Layers(Trunk):
    """The trunk of a `Recurrent`."""

    def __init__(self, spec: Recurrent, shape: tuple[int, ...], generator: torch.Generator | None) -> None:
        super().__init__()
        self.cell, (self.steps, inputs) = spec.cell, shape
        widths = (inputs, *(units * spec.directions for units in spec.hidden))
        self.hidden = nn.ModuleList([Cells(spec, before, after, generator) for before, after in pairwise(widths)])
        self.features, self.directions = widths[-1], spec.directions
        dropout = spec.dropout or Dropout()
        rates = dropout.hidden_rates(len(spec.hidden))
        hidden = [Site(f"hidden.{i}", units, rate) for i, (units, rate) in enumerate(zip(widths[1:], rates, strict=True))]
        self.sites = (Site("input", inputs, dropout.input), *hidden)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """Features [.., N, F] of sequences [.., N, T, F']."""
        x = _kept(x, gate, self.sites[0])
        for layer, site in zip(self.hidden, self.sites[1:], strict=True):
            x = _kept(layer(x), gate, site)
        if self.directions == 1:
            return x[..., -1, :]
        there, back = x.chunk(2, dim=-1)
        return torch.cat([there[..., -1, :], back[..., 0, :]], dim=-1)

    def linears(self) -> dict[str, nn.Module]:
        return {f"hidden.{i}": layer for i, layer in enumerate(self.hidden)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {site.name: (self.steps, site.units) for site in self.sites[1:]}

    def entries(self) -> int:
        return self.steps * (self.sites[0].units + 2 * GATES[self.cell] * sum(site.units for site in self.sites[1:]))

    def held(self) -> int:
        """Inputs, and of every step what cells keep of each unit; of a layer whose units are dropped its product."""
        each = HELD[self.cell]
        return self.steps * (self.sites[0].units + sum(site.units * (each + (1 if site.rate else 0)) for site in self.sites[1:]))

    def products(self) -> int:
        return self.steps * super().products()

    def activations(self) -> dict[str, str]:
        return dict.fromkeys(self.linears(), "tanh")


class Cells(nn.Module):
    """One layer of cells: sequences [.., N, T, F] to sequences of states [.., N, T, units x directions]."""

    def __init__(self, spec: Recurrent, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.cells = _Unset[spec.cell](inputs, outputs // spec.directions, batch_first=True, bidirectional=spec.bidirectional)
        if generator is not None:
            bound = (outputs // spec.directions) ** -0.5
            with torch.no_grad():
                for parameter in self.cells.parameters():
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[:-2]
        found: Tensor = self.cells(x.flatten(0, -3))[0]
        return found if len(leading) == 1 else found.unflatten(0, leading)


def _kept(x: Tensor, gate: Gate, site: Site) -> Tensor:
    """Sequences [.., N, T, units] times a mask that is the same at every step."""
    watch = getattr(gate, "watch", None)
    if watch is not None:  # each step is a row of its own
        watch(x.flatten(0, -2), site)
    if not site.rate:
        return x
    ones = x.new_ones(*x.shape[:-2], x.shape[-1])
    mask = gate(ones, site)
    return x if mask is ones else x * mask.unsqueeze(-2)


class _LSTM(nn.LSTM):
    def reset_parameters(self) -> None:
        """Nothing: torch would draw weights here, from its global generator."""


class _GRU(nn.GRU):
    def reset_parameters(self) -> None:
        """Nothing, as above."""


class _RNN(nn.RNN):
    def reset_parameters(self) -> None:
        """Nothing, as above."""


_Unset: dict[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}
