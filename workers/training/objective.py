"""The objective: the weighted sum of the targets' mean losses, and the penalties beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.checks import matching
from service.nets.network import Network, weights_of
from service.spec import TrainSpec
from service.tricks.multitask import Target, mean_loss
from service.tricks.optimization import Optimizer

Labels = dict[str, Tensor]


class DataLoss:
    """Mean loss over the rows with a label, summed over the targets by weight."""

    def __init__(self, targets: Sequence[Target], labels: Labels) -> None:
        self.targets = targets
        self.gaps = {target.name: bool(target.missing(labels[target.name]).any()) for target in targets}

    def __call__(self, raw: dict[str, Tensor], labels: Labels) -> Tensor:
        """The loss, a tensor of rank 0; the masked form is kept for targets that do have gaps."""
        total: Tensor | None = None
        for target in self.targets:
            outputs, wanted = raw[target.name], labels[target.name]
            loss = mean_loss(target, outputs, wanted) if self.gaps[target.name] else target.losses(outputs, wanted).mean()
            loss = loss if target.weight == 1.0 else loss * target.weight
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("a job has targets")
        return total


class Penalties:
    """The regularizers of a spec bound to one member's parameters."""

    def __init__(self, spec: TrainSpec, network: Network) -> None:
        names = list(network.layers())
        bound = [
            (
                penalty,
                weights_of(
                    network, matching(penalty.layers, names, spare_heads=penalty.spares_heads), everything=penalty.parameters == "all"
                ),
            )
            for penalty in spec.regularizers
        ]
        # A constraint comes last: whatever shrinks after it could not break it, but its order must not depend on the list.
        self._bound = sorted(bound, key=lambda pair: pair[0].projects)
        self._optimizer: Optimizer = spec.optimizer

    def __bool__(self) -> bool:
        return bool(self._bound)

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Before clipping and the optimizer's step."""
        for penalty, weights in self._bound:
            penalty.add_gradient(weights)

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's step."""
        learning_rate = float(optimizer.param_groups[0]["lr"])
        for penalty, weights in self._bound:
            sizes = self._optimizer.step_sizes(optimizer, weights) if penalty.proximal else []
            penalty.shrink(weights, learning_rate=learning_rate, step_sizes=sizes)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """The penalties' parts of the objective, by type."""
        found: dict[str, float] = {}
        for penalty, weights in self._bound:
            found[penalty.type] = found.get(penalty.type, 0.0) + float(penalty.value(weights))
        return found
