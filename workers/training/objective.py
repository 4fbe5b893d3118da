"""The objective: the weighted sum of the targets' mean losses, and the penalties beside it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from service.checks import matching
from service.nets.network import Network, weights_of
from service.spec import TrainSpec
from service.tricks.multitask import Target, mean_loss, weighted
from service.tricks.optimization import MOMENTS, Optimizer
from service.tricks.penalties import Regularizer
from service.tricks.stepping import Quick
from workers.training.flat import Flat

Labels = dict[str, Tensor]
WEIGHTS = ""
"""Where labels have what each row counts in the loss, if rows count differently: no target has this name."""


class DataLoss:
    """Mean loss over the rows with a label, summed over the targets by weight; of a stack, each member's.

    `learned` has the log s^2 of targets whose weight is learned, which move with every step.
    """

    def __init__(self, targets: Sequence[Target], labels: Labels, learned: Mapping[str, Tensor] | None = None) -> None:
        self.targets = targets
        self.learned = learned or {}
        self.gaps = {target.name: bool(target.missing(labels[target.name]).any()) for target in targets}

    def __call__(self, raw: dict[str, Tensor], labels: Labels) -> Tensor:
        """The loss [], or [K] of raw outputs [K, B, ..]; the masked form is kept for targets that do have gaps."""
        total: Tensor | None = None
        weights = labels.get(WEIGHTS)
        for target in self.targets:
            outputs, wanted = raw[target.name], labels[target.name]
            masked = weights is not None or self.gaps[target.name]
            loss = mean_loss(target, outputs, wanted, weights) if masked else target.loss_of(outputs, wanted)
            loss = weighted(target, loss, self.learned.get(target.name))
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("a job has targets")
        return total


class Penalties:
    """The regularizers of a spec bound to one member's parameters, which it puts side by side in memory."""

    def __init__(self, spec: TrainSpec, network: Network) -> None:
        names, self._members = list(network.layers()), network.members
        bound = [
            Bound(penalty, network, matching(penalty.layers, names, spare_heads=penalty.spares_heads)) for penalty in spec.regularizers
        ]
        # A constraint comes last: its order must not depend on that of the list.
        self._bound = sorted(bound, key=lambda each: each.penalty.projects)
        self._steering = [each for each in self._bound if each.penalty.steers]
        self._shrinking = [each for each in self._bound if not each.penalty.steers]
        self._proximal = [each for each in self._bound if each.penalty.proximal]
        self._optimizer: Optimizer = spec.optimizer
        self._weights = list(dict.fromkeys(weight for each in self._proximal for weight in each.weights))
        self._flat = Flat(self._weights)
        for each in self._proximal:
            each.places = self._flat.spans(self._flat.values, each.weights)
            each.scales = [torch.empty_like(place) for place in each.places]
        if self._members is not None:  # a unit of any member is a row of its own
            for each in self._bound:
                if each.penalty.projects:
                    each.places = [weight.detach().flatten(0, 1) for weight in each.weights]
        self._state: object = None

    def __bool__(self) -> bool:
        return bool(self._bound)

    def add_gradients(self) -> None:
        """Before clipping and the optimizer's step; without autograd, like `shrink`."""
        for each in self._steering:
            each.penalty.add_gradient(each.weights)

    def shrink(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's step."""
        if not self._shrinking:
            return
        if self._proximal and optimizer.state is not self._state:
            self._lay_out_moments(optimizer)
        learning_rate = float(optimizer.param_groups[0]["lr"])
        for each in self._shrinking:
            penalty = each.penalty
            metric = self._optimizer.metric(optimizer, each.moments, each.scales) if penalty.proximal else None
            penalty.shrink(each.places, learning_rate=learning_rate, metric=metric)

    def _lay_out_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Put Adam's second moments side by side like the weights, once and after each resumption, which brings a new state."""
        self._state = optimizer.state
        moments = torch.empty_like(self._flat.values)
        for weight in self._weights:
            moment = self._state[weight].get(MOMENTS)
            if moment is None:
                return
            # The same tensor at another place: the optimizer holds on to it.
            moment.data = self._flat.place(moments, weight, moment)
        for each in self._proximal:
            each.moments = self._flat.spans(moments, each.weights)
        if isinstance(optimizer, Quick):
            optimizer.forget()

    @torch.no_grad()
    def values(self, place: int) -> dict[str, float]:
        """The penalties' parts of the objective of the member at that place, by type."""
        found: dict[str, float] = {}
        for each in self._bound:
            weights = each.places if self._members is None else [weight[place] for weight in each.weights]
            found[each.penalty.type] = found.get(each.penalty.type, 0.0) + float(each.penalty.value(weights))
        return found


class Bound:
    """A penalty and the parameters that it acts on; a proximal one also their places in one buffer."""

    def __init__(self, penalty: Regularizer, network: Network, layers: Sequence[str]) -> None:
        self.penalty = penalty
        self.weights = weights_of(network, layers, everything=penalty.parameters == "all")
        self.places = self.weights
        self.moments: list[Tensor] = []
        self.scales: list[Tensor] = []
