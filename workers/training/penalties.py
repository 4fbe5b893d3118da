"""The regularizers of a run's members, bound to its parameters."""

from collections.abc import Sequence

import torch

from service.nets.network import Network, gates_of, weights_of
from service.nets.reach import Constants, acting, reached
from service.spec import TrainSpec
from service.tricks.optimization import MOMENTS
from service.tricks.sparsity import L0, deterministic
from service.tricks.stepping import Quick
from workers.training.bound import Bound, Projection
from workers.training.flat import Flat
from workers.training.gating import Gating


class Penalties:
    """The regularizers of members bound to their parameters: once for all where they are alike, else member by member.

    Where members are alike, weights that a proximal step acts on are put side by side in memory.
    """

    def __init__(
        self,
        specs: Sequence[TrainSpec],
        network: Network,
        *,
        apart: bool = False,
        gating: Gating | None = None,
        constants: Constants,
    ) -> None:
        groups = list(enumerate(specs)) if apart else [(None, specs[0])]
        bound = [each for place, spec in groups for each in _bound(spec, network, constants, place)]
        # A constraint comes last: its order must not depend on that of the list.
        self._bound = sorted(bound, key=lambda each: each.penalty.type if each.penalty.projects else "")
        self._steering = [each for each in self._bound if each.penalty.steers and not each.penalty.gated]
        self._shrinking = [each for each in self._bound if not each.penalty.steers]
        self._projections = [each for each in self._bound if isinstance(each, Projection)]
        self._kind = specs[0].optimizer
        proximal = [] if apart else [each for each in self._bound if each.penalty.proximal]
        self._weights = list(dict.fromkeys(weight for each in proximal for weight in each.weights))
        self._flat = Flat(self._weights) if proximal else None
        for each in self._bound:
            if self._flat is not None and each in proximal:
                each.lie_in(self._flat)
            else:
                each.lie()
            if gating is not None and isinstance(each.penalty, L0) and each.penalty.alpha is not None:
                gating.charge(each.weights, each.penalty.alpha, each.place)
        self._state: object = None
        sparse = [penalty for spec in specs for penalty in spec.regularizers if penalty.sparsifies]
        self._network = network
        names = list(network.layers())
        chosen = [name for name in names if any(name in penalty.over(names) for penalty in sparse)]
        self._sparse = [name for name in chosen if weights_of(network, [name], everything=False)]

    def __bool__(self) -> bool:
        return bool(self._bound)

    def add_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Before clipping and the optimizer's step; without autograd, like `shrink`."""
        for each in self._steering:
            each.add_gradient()
        for projection in self._projections:
            projection.refill(optimizer)

    def shrink(self, optimizer: torch.optim.Optimizer, *, late: bool = False) -> None:
        """After the optimizer's step; `late` in the second half of the training."""
        if not self._shrinking:
            return
        if optimizer.state is not self._state:
            self._take_state(optimizer)
        for each in self._shrinking:
            each.shrink(optimizer, self._kind, late=late)

    def _take_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Find what the optimizer has of the parameters, once and after each resumption, which brings a new state."""
        self._state = optimizer.state
        buffer = torch.empty_like(self._flat.values) if self._flat is not None else None
        for weight in self._weights:
            moment = optimizer.state[weight].get(MOMENTS)
            if moment is None or self._flat is None or buffer is None:
                buffer = None
                break
            # The same tensor at another place: the optimizer holds on to it.
            moment.data = self._flat.place(buffer, weight, moment)
        for each in self._shrinking:
            each.take_state(optimizer, self._flat if buffer is not None else None, buffer)
        if buffer is not None and isinstance(optimizer, Quick):
            optimizer.forget()

    @torch.no_grad()
    def sparsity(self, place: int) -> dict[str, float]:
        """The share of exact zeros in each layer where a penalty makes some, of the member at that place; closed gates' columns count."""
        return {name: _zeros(self._network, name, place) for name in self._sparse}

    @torch.no_grad()
    def values(self, place: int) -> dict[str, float]:
        """The penalties' parts of the objective of the member at that place, by type."""
        found: dict[str, float] = {}
        for each in self._bound:
            if each.place in (None, place):
                found[each.penalty.type] = found.get(each.penalty.type, 0.0) + float(each.penalty.value(each.of(place)))
        return found


def _bound(spec: TrainSpec, network: Network, constants: Constants, place: int | None) -> list[Bound]:
    """A spec's penalties with the parameters that they act on."""
    frozen = spec.init.freeze if spec.init is not None else ()
    found = []
    for penalty in acting(spec.regularizers):
        weights, stacked = reached(penalty, network, constants, frozen=frozen), network.members is not None
        projects = isinstance(penalty, L0) and not penalty.gated
        found.append(Projection(penalty, weights, place, stacked=stacked) if projects else Bound(penalty, weights, place, stacked=stacked))
    return found


def _zeros(network: Network, layer: str, place: int) -> float:
    """The share of a layer's weights that are 0, or multiplied by a gate that is."""
    weights, logits = weights_of(network, [layer], everything=False), gates_of(network, [layer])
    whole = weights if not logits else [weight * deterministic(logits[0]).unsqueeze(-2) for weight in weights]
    own = whole if network.members is None else [weight[place] for weight in whole]
    return 1 - sum(int(weight.count_nonzero()) for weight in own) / sum(weight.numel() for weight in own)
