"""Recurrent networks over sequences [T, F]: long short-term memory, gated units, and the plain one."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from service.errors import Flaw
from service.nets.architecture import Thinned, Trunk, Width
from service.nets.base import held
from service.nets.intervals import Interval
from service.nets.unrolled import unrolled
from service.onnx.graph import Graph
from service.tricks.choices import AtMost
from service.tricks.dropout import Dropout, Gate, Site, Watcher
from service.values import ITEMS

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
ONNX_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
"""Where torch has each of the gates that ONNX has in its order: input, output, forget, cell, or update, reset, new."""
HELD = {"lstm": 16, "gru": 7, "rnn": 1}
"""Numbers of each unit and step that torch's cells hold on a CPU between a forward and a backward pass."""


class Recurrent(Thinned):
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

    def exported(self, graph: Graph, x: str) -> tuple[str, list[str]]:
        states, last = graph.add("Transpose", x, perm=(1, 0, 2)), x
        for layer in self.layers():
            states, last = layer.exported(graph, states)
        return graph.add("Flatten", graph.add("Transpose", last, perm=(1, 0, 2))), []

    def layers(self) -> list["Cells"]:
        """The layers of cells in forward order."""
        return [layer for layer in self.hidden if isinstance(layer, Cells)]

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

    def repeated(self) -> int:
        return (self.steps - 1) * super().products()

    def activations(self) -> dict[str, str]:
        return dict.fromkeys(self.linears(), "tanh")


class Cells(nn.Module):
    """One layer of cells: sequences [.., N, T, F] to sequences of states [.., N, T, units x directions]."""

    def __init__(self, spec: Recurrent, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.cell = spec.cell
        self.cells = _Unset[spec.cell](inputs, outputs // spec.directions, batch_first=True, bidirectional=spec.bidirectional)
        if generator is not None:
            bound = (outputs // spec.directions) ** -0.5
            with torch.no_grad():
                for parameter in self.cells.parameters():
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        leading, rows = x.shape[:-2], cast("Tensor | Interval", x.flatten(0, -3))
        found: Tensor = cast(Tensor, unrolled(self.cells, rows)) if isinstance(rows, Interval) else self.cells(rows)[0]
        return found if len(leading) == 1 else found.unflatten(0, leading)

    def exported(self, graph: Graph, x: str) -> tuple[str, str]:
        """All states [T, N, units x directions] of [T, N, F], and each direction's last one [directions, N, units]."""
        units, ways = self.cells.hidden_size, ("", "_reverse") if self.cells.bidirectional else ("",)
        reading, going_on = (torch.stack([self._by_gate(f"weight_{of}_l0{way}") for way in ways]) for of in ("ih", "hh"))
        biases = torch.stack([torch.cat([self._by_gate(f"bias_{of}_l0{way}") for of in ("ih", "hh")]) for way in ways])
        how = {"hidden_size": units, "direction": "bidirectional" if len(ways) > 1 else "forward"}
        more = {"linear_before_reset": 1} if self.cell == "gru" else {}
        inputs = (x, *held(graph, reading, going_on, biases))
        states, last, *_ = graph.several(3 if self.cell == "lstm" else 2, self.cell.upper(), *inputs, **how, **more)
        by_row = graph.add("Transpose", states, perm=(0, 2, 1, 3))
        return graph.reshaped(by_row, 0, units * len(ways)), last

    def _by_gate(self, name: str) -> Tensor:
        """A parameter with its gates in the order of ONNX."""
        gates = self.cells.get_parameter(name).detach().chunk(GATES[self.cell])
        return torch.cat([gates[place] for place in ONNX_GATES[self.cell]])


def _kept(x: Tensor, gate: Gate, site: Site) -> Tensor:
    """Sequences [.., N, T, units] times a mask that is the same at every step."""
    if isinstance(gate, Watcher):  # each step is a row of its own
        gate.watch(x.flatten(0, -2), site)
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
