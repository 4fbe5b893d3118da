"""What the report says of weights: how many are gone, what the penalties of those that are left come to, and what sharing saved."""

from typing import Any

import torch

from service.inference.measuring import Inquiry
from service.inference.sources import constants_of
from service.nets.network import Network, weights_of
from service.nets.reach import acting, learning, reached
from service.tricks.sparsity import L0

Shares = dict[str, float]


def trained(inquiry: Inquiry) -> Network:
    """The network as it was trained, of any weights: before closed gates were taken out."""
    material = inquiry.material
    with torch.device("meta"):
        return Network(material.network, material.preprocess, material.scales, None)


def sparsity(inquiry: Inquiry) -> Shares:
    """The share of a layer's weights that are exactly 0 or were taken out with closed gates, mean over members."""
    model, whole = inquiry.model, trained(inquiry)
    shares: Shares = {}
    for name in whole.layers():
        count = sum(weight.numel() for weight in weights_of(whole, [name], everything=False))
        if not count:  # a tied layer's are another's
            continue
        left = [sum(int(weight.count_nonzero()) for weight in weights_of(network, [name], everything=False)) for network in model.networks]
        shares[name] = 1 - sum(left) / model.size / count
    return shares


def penalties(inquiry: Inquiry) -> Shares:
    """Each penalty's part of the objective at the kept weights, mean over members; of gates the price of those that stayed open."""
    model = inquiry.model
    found: Shares = {}
    for i, network in enumerate(model.networks):
        spec, number = model.spec_of(i), model.numbers[i] if model.numbers else i
        frozen = spec.init.freeze if spec.init is not None else ()
        constants = constants_of(inquiry.material.sources, [number], network.preprocess.shift.device, stacked=False)
        for penalty in acting(spec.regularizers):
            if isinstance(penalty, L0) and penalty.alpha is not None:
                value = penalty.alpha * sum(_open(network, name) for name in learning(penalty, list(network.layers()), frozen))
            else:
                value = float(penalty.value(reached(penalty, network, constants, frozen=frozen)))
            found[penalty.type] = found.get(penalty.type, 0.0) + value / model.size
    return found


def gates(inquiry: Inquiry) -> dict[str, Any] | None:
    """By layer with gates: how many inputs it had, and how many each member still reads."""
    model, whole = inquiry.model, trained(inquiry)
    names = {name for each in model.spec.regularizers if each.gated for name in each.over(list(whole.layers()))}
    inputs = {name: weights_of(whole, [name], everything=False)[0].shape[1] for name in whole.layers() if name in names}
    found = {name: {"inputs": count, "open": [_open(network, name) for network in model.networks]} for name, count in inputs.items()}
    return found or None


def _open(network: Network, layer: str) -> int:
    """How many inputs a layer reads."""
    return int((weights_of(network, [layer], everything=False)[0] != 0).any(0).sum())
