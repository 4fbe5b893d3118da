"""Closed gates taken out of a network for good: folded into the weights, then columns, and the units that only they read, removed.

All members of a model are cut to the widths of the widest, so that they can still be asked side by side; what a member has too
much has columns of zeros.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.nets import forms
from service.nets.gates import Gated, plain
from service.nets.network import Network, NetworkSpec
from service.tricks.sparsity import deterministic
from service.tricks.tying import Share

Orders = list[Tensor]
"""For the inputs and each hidden layer's units, which stay, in ascending order."""


class Cut(NamedTuple):
    """The widths of hidden layers, and how many inputs are read (None: all), of every member."""

    widths: tuple[int, ...]
    reads: int | None


def served(spec: NetworkSpec, cut: Cut | None = None) -> NetworkSpec:
    """What a published network is built from: without gates, with layers that are one, as narrow as it was cut."""
    shared = tuple(penalty for penalty in spec.regularizers if isinstance(penalty, Share))
    spec = spec._replace(regularizers=shared, frozen=())
    if cut is None:
        return spec
    narrow = spec.architecture.narrowed(cut.widths)
    if narrow is None:
        raise TypeError("this architecture is not cut")
    return spec._replace(architecture=narrow, reads=cut.reads)


def pruned(networks: Sequence[Network]) -> tuple[list[Network], Cut | None]:
    """The members as they are published, and what they were cut to; None where they stay as wide as they were."""
    if not any(isinstance(module, Gated) for module in networks[0].modules()):
        return list(networks), None
    whole = networks[0].spec.architecture.narrowed(()) is None
    masks = [] if whole else [_read(network) for network in networks]
    for network in networks:
        for module in [module for module in network.modules() if isinstance(module, Gated)]:
            forms.replace(network, module, plain(module))
    if whole:
        return [_rebuilt(network, None, []) for network in networks], None
    counts = [max(1, *(int(own[at].sum()) for own in masks)) for at in range(len(masks[0]))]
    orders = [[_first(mask, count) for mask, count in zip(own, counts, strict=True)] for own in masks]
    reads = counts[0] if counts[0] < math.prod(networks[0].spec.shape) else None
    cut = Cut(tuple(counts[1:]), reads)
    return [_rebuilt(network, cut, order) for network, order in zip(networks, orders, strict=True)], cut


def _read(network: Network) -> list[Tensor]:
    """For the inputs and each hidden layer's units, whether anything reads them: a layer without gates reads all."""
    layers = network.layers()
    hidden, heads = [name for name in layers if not name.startswith("head.")], [name for name in layers if name.startswith("head.")]
    readers = [*([name] for name in hidden), heads]
    shared = [set(penalty.over(list(layers))) for penalty in network.spec.regularizers if isinstance(penalty, Share)]
    masks = []
    for writer, names in zip([None, *hidden], readers, strict=True):
        gates = [_gate(layers[name]) for name in names]
        mask = torch.stack(gates).any(0)
        masks.append(torch.ones_like(mask) if any(writer in group for group in shared) else mask)
    return masks


def _gate(layer: nn.Module) -> Tensor:
    """Which inputs a layer reads."""
    linear = forms.linear_of(layer)
    return deterministic(linear.log_alpha.detach()) > 0 if isinstance(linear, Gated) else torch.ones(linear.in_features, dtype=torch.bool)


def _first(mask: Tensor, count: int) -> Tensor:
    """The numbers of what is read, and of as much of the rest as makes that many, ascending."""
    return (~mask).int().argsort(stable=True)[:count].sort().values


def _rebuilt(network: Network, cut: Cut | None, orders: Orders) -> Network:
    """A network without gates that gives the same answers from what is left of its weights."""
    made = Network(served(network.spec, cut), network.preprocess, network.units, None)
    if cut is None:
        made.load(network.learned())
        return made
    if made.reads is not None:
        made.reads.copy_(orders[0])
    layers, place = network.layers(), 0
    for name, layer in made.layers().items():
        head = name.startswith("head.")
        inputs, outputs = orders[-1 if head else place], None if head else orders[place + 1]
        state = {key: tensor if outputs is None else tensor[outputs] for key, tensor in layers[name].state_dict().items()}
        made_of = {key: tensor[:, inputs] if key.endswith("weight") and tensor.ndim == 2 else tensor for key, tensor in state.items()}
        layer.load_state_dict(made_of, strict=False)  # torch asks for a count of batches that this norm does not keep
        place += not head
    return made
