"""The report's `activations`: units that are saturated or dead in each layer, before the first step and at the kept weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.blocks import spread
from service.inference.asking import CHUNK_ENTRIES
from service.inference.measuring import Inquiry
from service.nets.activations import dead, saturated
from service.nets.network import Network
from service.tricks.dropout import Site, Watcher

MOST_ROWS = 1000
"""Training rows that are looked at, evenly spread."""
Shares = dict[str, dict[str, float | None]]


class Probe(Watcher):
    """A gate that lets all units through and remembers what they gave, by site."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        self.watch(x, site)
        return x

    def watch(self, x: Tensor, site: Site) -> None:
        self.seen[site.name] = x


class Span(NamedTuple):
    """What is remembered of a layer's outputs: the least and the largest of each unit [F], how many there were, how many saturated."""

    low: Tensor
    high: Tensor
    total: int
    flat: int | None

    @classmethod
    def of(cls, kind: str, outputs: Tensor) -> "Span":
        """That of outputs [N, F]."""
        flat = saturated(kind, outputs)
        return cls(outputs.amin(0), outputs.amax(0), outputs.numel(), None if flat is None else int(flat.sum()))

    def joined(self, other: "Span") -> "Span":
        """That of both's rows."""
        flat = None if self.flat is None or other.flat is None else self.flat + other.flat
        return Span(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high), self.total + other.total, flat)

    @property
    def saturated(self) -> float | None:
        """The share of saturated outputs; None for an activation without ends."""
        return None if self.flat is None else self.flat / self.total


def activations(inquiry: Inquiry) -> dict[str, Any] | None:
    """By layer, at the `first` step and at the `best`, means over members; null for a network without hidden layers.

    `saturated`: the share of outputs, over units and rows, in the outer twentieth of a bounded activation's range at either
    end, null for one without ends. `dead`: the share of units that give every row the same.
    """
    model, material = inquiry.model, inquiry.material
    kinds, train = model.networks[0].trunk.activations(), material.parts.train
    if not kinds or not len(train):
        return None
    x = material.rows(spread(train, MOST_ROWS))[0]
    first, best = [], []
    for place, network in enumerate(model.networks):
        inquiry.beat()
        number = model.numbers[place] if model.numbers else place
        first.append(shares(material.initial(number), x))
        best.append(shares(network, x))
    layers = {
        name: {"activation": kind, "first": _mean([own[name] for own in first]), "best": _mean([own[name] for own in best])}
        for name, kind in kinds.items()
    }
    return {"rows": len(x), "layers": layers}


@torch.inference_mode()
def shares(network: Network, x: Tensor) -> Shares:
    """The shares of saturated outputs and of dead units of each layer on rows x [N, ...], taken chunk by chunk."""
    kinds, spans = network.trunk.activations(), dict[str, Span]()
    for rows in x.split(max(1, CHUNK_ENTRIES // (network.entries + 1))):
        probe = Probe()
        network.eval()(rows, probe)
        for name, kind in kinds.items():
            span = Span.of(kind, probe.seen[name])
            spans[name] = spans[name].joined(span) if name in spans else span
    return {name: {"saturated": span.saturated, "dead": float(dead(span.low, span.high).float().mean())} for name, span in spans.items()}


def _mean(shown: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Each share's mean over members."""
    return {name: None if value is None else float(np.mean([own[name] for own in shown])) for name, value in shown[0].items()}
