"""The regularizers of a stack whose members differ in strength or learning rate, each bound to its member's slices."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.checks import matching
from service.nets.network import Network
from service.spec import TrainSpec
from service.tricks.optimization import MOMENTS, rate_of
from service.tricks.penalties import Regularizer
from workers.training.objective import Bound


class OwnPenalties:
    """What `Penalties` is for members that are alike, one member after the other; specs and stack in the same order."""

    def __init__(self, specs: Sequence[TrainSpec], network: Network) -> None:
        self._bound = [_bound(spec, network, place) for place, spec in enumerate(specs)]
        self._optimizer = specs[0].optimizer

    def __bool__(self) -> bool:
        return any(self._bound)

    def add_gradients(self) -> None:
        """Before clipping and the optimizer's step; without autograd, like `shrink`."""
        for own in self._bound:
            for each in own:
                if each.penalty.steers:
                    each.point_gradients()
                    each.penalty.add_gradient(each.places)

    def shrink(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's step."""
        for place, own in enumerate(self._bound):
            for each in own:
                if not each.penalty.steers:
                    metric = None
                    if each.penalty.proximal:
                        metric = self._optimizer.metric(optimizer, each.moments_in(optimizer), each.scales, place=place)
                    each.penalty.shrink(each.places, learning_rate=rate_of(optimizer, place), metric=metric)

    @torch.no_grad()
    def values(self, place: int) -> dict[str, float]:
        """The penalties' parts of the objective of the member at that place, by type."""
        found: dict[str, float] = {}
        for each in self._bound[place]:
            found[each.penalty.type] = found.get(each.penalty.type, 0.0) + float(each.penalty.value(each.places))
        return found


class _Own(Bound):
    """A penalty and the slices that one member of a stack has of the parameters that it acts on."""

    def __init__(self, penalty: Regularizer, network: Network, layers: Sequence[str], *, place: int) -> None:
        super().__init__(penalty, network, layers)
        self.place = place
        self.places = [weight.detach()[place] for weight in self.weights]
        self.scales = [torch.empty_like(own) for own in self.places] if penalty.proximal else []
        self._state: object = None

    def point_gradients(self) -> None:
        """Let the slices' gradients be the slices of the gradients."""
        for weight, own in zip(self.weights, self.places, strict=True):
            own.grad = weight.grad[self.place] if weight.grad is not None else None

    def moments_in(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """The slices of Adam's second moments, found again after each resumption, which brings a new state."""
        if optimizer.state is not self._state:
            self._state = optimizer.state
            held = [optimizer.state[weight].get(MOMENTS) for weight in self.weights]
            self.moments = [moment[self.place] for moment in held if moment is not None]
        return self.moments


def _bound(spec: TrainSpec, network: Network, place: int) -> list[_Own]:
    """The member's penalties, constraints last, as `Penalties` has them."""
    names = list(network.layers())
    bound = [
        _Own(penalty, network, matching(penalty.layers, names, spare_heads=penalty.spares_heads), place=place)
        for penalty in spec.regularizers
    ]
    return sorted(bound, key=lambda each: each.penalty.projects)
