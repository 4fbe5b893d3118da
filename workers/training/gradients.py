"""How much of the loss reaches each layer, and each step of a sequence: norms of gradients at the first, an early and the best step.

Gradients are of the mean data loss on as many training rows as a batch has, the same ones at every moment and for every member:
without dropout, augmentation, adversarial rows and penalties, with batch norm as in training. Nothing of a run is changed.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.blocks import spread
from service.inference.material import Material
from service.nets.base import BatchNorm
from service.nets.gates import Gated
from service.nets.network import Network
from service.nets.recurrent import Cells
from workers.training.batches import batch_rows
from workers.training.objective import WEIGHTS, DataLoss
from workers.training.run import Member

EARLY = 10
"""Steps before the end of the first epoch that counts as early."""
MOST_ROWS, MOST_TIMES = 256, 256
"""Rows, and steps of a sequence that are told of, evenly spread."""


def moments(material: Material, network: Network, step: int) -> list[dict[str, Any]]:
    """The norms of a network, or of each member of a stack, after so many steps (`step`); None where they are no numbers.

    `layers`: Euclidean norms over all of a layer's parameters but gates; what layers share counts in each. `over_time`: by
    recurrent layer and each of the `time_steps`, from 1, the mean over rows of the norm of the gradient of the row's loss by
    what the layer reads at that step.
    """
    device, members = next(network.parameters()).device, network.members
    x, labels = _rows(material, device)
    loss_of = DataLoss(material.targets, material.labels, network.log_variances)
    layers = {name: _learning(layer) for name, layer in network.layers().items()}
    parameters = list(dict.fromkeys(parameter for own in layers.values() for parameter in own))
    with _as_in_training(network), torch.enable_grad(), _reading(network) as read:
        loss = loss_of(network(x if members is None else x.expand(members, *x.shape)), _for(labels, members))
        # A target without labels among these rows has no gradient.
        found = torch.autograd.grad(loss.sum(), [*parameters, *read.values()], materialize_grads=True)
    squares = {p: slope.reshape(members or 1, -1).double().square().sum(1) for p, slope in zip(parameters, found, strict=False)}
    sequences = {name: slope.norm(dim=-1).sum(0).cpu() for name, slope in zip(read, found[len(parameters) :], strict=True)}
    times = spread(np.arange(max((len(norms) for norms in sequences.values()), default=0)), MOST_TIMES)
    over_time = {name: [_finite(value) for value in norms[times].tolist()] for name, norms in sequences.items()}
    every = {"step": step, "over_time": over_time, "time_steps": (times + 1).tolist()}
    return [{**every, "layers": {name: _norm([squares[p][k] for p in own]) for name, own in layers.items()}} for k in range(members or 1)]


def over_training(material: Material, member: Member, device: torch.device) -> dict[str, dict[str, Any] | None]:
    """A member's gradients at the `first` step, `early`, where it came so far, and at its `best`."""
    network = material.initial(member.number).to(device)
    (first,) = moments(material, network, 0)
    network.load(member.best)
    (best,) = moments(material, network, member.patience.step)
    return {"first": first, "early": member.early, "best": best}


def _norm(squares: Sequence[Tensor]) -> float | None:
    """The Euclidean norm of a layer's parameters; None where none of them learns."""
    return _finite(float(sum(squares)) ** 0.5) if squares else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _learning(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer that the loss has a gradient by: gates have one of their own making."""
    return [p for name, p in layer.named_parameters() if p.requires_grad and not name.endswith("log_alpha")]


def _rows(material: Material, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Training rows, evenly spread, with their labels."""
    rows = spread(material.parts.train, min(batch_rows(material), MOST_ROWS))
    x, labels = material.rows(rows)
    labels |= material.mirror(x) if material.mirrored else {}
    if material.weights is not None:
        labels[WEIGHTS] = material.weights[torch.from_numpy(rows)]
    return x.to(device), {name: values.to(device) for name, values in labels.items()}


def _for(labels: dict[str, Tensor], members: int | None) -> dict[str, Tensor]:
    """The labels, of a stack once for each member."""
    return labels if members is None else {name: values.expand(members, *values.shape) for name, values in labels.items()}


@contextmanager
def _as_in_training(network: Network) -> Iterator[None]:
    """The network as a step has it, but gates as they are served; afterwards as it was, running statistics too."""
    before = network.training
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    kept = [(buffer, buffer.clone()) for module in norms for buffer in module.buffers()]
    network.train()
    for module in network.modules():
        if isinstance(module, Gated):
            module.eval()
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
        network.train(before)


@contextmanager
def _reading(network: Network) -> Iterator[dict[str, Tensor]]:
    """What recurrent layers read [N, T, F], by their names, while rows go through the network."""
    read: dict[str, Tensor] = {}

    def keeping(name: str) -> Any:
        def keep(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            read[name] = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_(True)
            return (read[name],)

        return keep

    hooks = [layer.register_forward_pre_hook(keeping(name)) for name, layer in network.layers().items() if isinstance(layer, Cells)]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()
