"""The report's `activations`: units that are saturated or dead in each layer, before the first step and at the kept weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.blocks import spread
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
    """The shares of saturated outputs and of dead units of each layer on rows x [N, ...]."""
    probe = Probe()
    network.eval()(x, probe)
    found: Shares = {}
    for name, kind in network.trunk.activations().items():
        outputs = probe.seen[name]
        flat = saturated(kind, outputs)
        found[name] = {"saturated": None if flat is None else float(flat.float().mean()), "dead": float(dead(outputs).float().mean())}
    return found


def _mean(shown: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Each share's mean over members."""
    return {name: None if value is None else float(np.mean([own[name] for own in shown])) for name, value in shown[0].items()}
