"""Asking a model at a point on its two axes: members times dropout masks, combined into one answer.

Rows and masks are taken chunk by chunk, so that 65,536 masks need no more memory than a few.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from service.errors import invalid, unavailable
from service.inference.masks import all_gates, digests, drawn, dropped_sites, enumerable, fresh_gates, shared_gates
from service.inference.model import Model
from service.inference.pools import Answer, ClassPool, NumberPool, joined
from service.nets.network import Network
from service.tricks.dropout import SCALED, Gate
from service.tricks.modes import EXACT_UNITS, Axes
from service.tricks.multitask import Distribution

CHUNK_ENTRIES = 4_000_000
"""Hidden units times rows times networks that are held at once."""
STACK_WORK = 2**21
"""Rows times parameters of a member up to which members are asked as one: beyond, products are long enough by themselves."""
Said = dict[str, Distribution]


def quiet() -> None:
    """Say nothing of progress."""


@torch.inference_mode()
def ask(model: Model, x: Tensor, axes: Axes, *, keep: bool = False, beat: Callable[[], None] = quiet) -> dict[str, Answer]:
    """Each target's answer on rows x [N, ...] in the inputs' own units.

    `keep` also keeps what every network said; `beat` is called before each pass, for whoever has to hear of progress.
    """
    rows = max(1, CHUNK_ENTRIES // _units(model.networks[0]))
    parts = [_ask(model, chunk, axes, keep=keep, beat=beat) for chunk in x.split(rows)]
    return parts[0] if len(parts) == 1 else {name: joined([part[name] for part in parts]) for name in parts[0]}


def _units(network: Network) -> int:
    return network.entries + 1


def _ask(model: Model, x: Tensor, axes: Axes, *, keep: bool, beat: Callable[[], None]) -> dict[str, Answer]:
    pools: dict[str, ClassPool | NumberPool] = {
        target.name: ClassPool(axes.combine, keep=keep, decision=model.decision(target))
        if target.says == "classes"
        else NumberPool(keep=keep, noise=model.noise(target))
        for target in model.spec.targets or ()
    }
    for said, weights in passes(model, x, axes, fresh=True, beat=beat):
        for name, answer in said.items():
            pools[name].add(answer, weights)
    return {name: pool.answer() for name, pool in pools.items()}


def passes(model: Model, x: Tensor, axes: Axes, *, fresh: bool, beat: Callable[[], None]) -> Iterator[tuple[Said, Tensor]]:
    """What m networks at a time say of rows x, by target [m, N, ..], with their weights [m].

    `fresh`: every row has masks of its own, and exact is computed in float64: what answers. Otherwise masks do not look at
    the rows and all is in the network's own precision: a function that has a gradient, for attacks.
    """
    weights = network_weights(axes, len(axes.members))
    if axes.dropout == "weight_scaled":
        yield from _scaled_passes(model, x, axes, weights.view(-1), beat)
        return
    rows = digests(x) if fresh and axes.random else None
    for i, member in enumerate(axes.members):
        network = model.precise(member) if fresh and axes.dropout == "exact" else model.networks[member]
        if not dropped_sites(network.sites):  # a member of its own rate: all its masks are one
            beat()
            yield _one(network.distributions(x, SCALED)), weights[i].sum().view(1)
            continue
        most, at = max(1, CHUNK_ENTRIES // (_units(network) * max(len(x), 1))), 0
        if axes.dropout == "exact":
            gates: Iterator[tuple[Gate, Tensor]] = all_gates(network.sites, axes, most=most, dtype=network.preprocess.shift.dtype)
        elif rows is not None:
            gates = fresh_gates(network.sites, axes, rows, member=member, most=most)
        else:
            gates = shared_gates(network.sites, axes, member=member, most=most)
        for gate, shares in gates:
            beat()
            yield network.distributions(x, gate), shares * weights[i] if weights.ndim == 1 else weights[i, at : at + len(shares)]
            at += len(shares)


def _scaled_passes(model: Model, x: Tensor, axes: Axes, weights: Tensor, beat: Callable[[], None]) -> Iterator[tuple[Said, Tensor]]:
    """Weight scaling: all members at once where that is quicker, else one after the other."""
    if _side_by_side(model, len(x), axes):
        beat()
        yield model.stacked().distributions(x), weights
        return
    for i, member in enumerate(axes.members):
        beat()
        yield _one(model.networks[member].distributions(x, SCALED)), weights[i : i + 1]


def _side_by_side(model: Model, rows: int, axes: Axes) -> bool:
    if axes.members != tuple(range(model.size)) or not model.stackable:
        return False
    return rows * model.parameters <= STACK_WORK and rows * model.size * _units(model.networks[0]) <= CHUNK_ENTRIES


def _one(said: Said) -> Said:
    """A network's answers with a networks' axis in front."""
    return {name: Distribution(*(None if part is None else part.unsqueeze(0) for part in answer)) for name, answer in said.items()}


def check_axes(model: Model, axes: Axes) -> None:
    """Raises Invalid or ModeUnavailable where the model cannot be asked at this point, before any row is looked at."""
    network_weights(axes, len(axes.members))
    if axes.dropout == "exact":
        for member in axes.members:
            enumerable(model.networks[member].sites, axes)


def droppable(model: Model) -> int:
    """Units that training could drop, in the member with most of them."""
    return max(sum(site.droppable for site in network.sites) for network in model.networks)


def networks_asked(model: Model, axes: Axes) -> int:
    """Members times masks."""
    masks = 1 << min(droppable(model), EXACT_UNITS) if axes.dropout == "exact" else drawn(axes)
    return len(axes.members) * masks


def network_weights(axes: Axes, count: int) -> Tensor:
    """Weights of the networks: [K], shared among a member's masks, or [K, S] where a list names each network."""
    if isinstance(axes.weights, str):
        shares = torch.tensor(axes.shares or (1.0,) * count, dtype=torch.float64)
        return shares / shares.sum()
    if axes.dropout == "exact":
        raise unavailable("/weights", "Every mask has its own probability; exact takes no list of weights.")
    if len(axes.weights) != count * drawn(axes):
        raise invalid("/weights", "shape-mismatch", f"{len(axes.weights)} weights for {count * drawn(axes)} networks")
    weights = torch.tensor(axes.weights, dtype=torch.float64)
    return (weights / weights.sum()).view(count, drawn(axes))
