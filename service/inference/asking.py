"""Asking a model at a point on its two axes: members times dropout masks, combined into one answer.

Rows and masks are taken chunk by chunk, so that 65,536 masks need no more memory than a few.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from service.errors import ModeUnavailable, invalid
from service.inference.model import Model
from service.inference.pools import Answer, ClassPool, NumberPool, joined
from service.nets.network import Network
from service.seeds import derive
from service.tricks.dropout import SCALED, Replayed, Site, draw_mask
from service.tricks.modes import EXACT_UNITS, Axes
from service.tricks.multitask import Distribution

CHUNK_ENTRIES = 4_000_000
"""Hidden units times rows times networks that are held at once."""
Masks = dict[str, Tensor]


def quiet() -> None:
    """Say nothing of progress."""


@torch.inference_mode()
def ask(model: Model, x: Tensor, axes: Axes, *, keep: bool = False, beat: Callable[[], None] = quiet) -> dict[str, Answer]:
    """Each target's answer on rows x [N, ...] in the inputs' own units.

    `keep` also keeps what every network said; `beat` is called before each pass, for whoever has to hear of progress.
    """
    networks = [model.networks[i] for i in axes.members]
    rows = max(1, CHUNK_ENTRIES // _units(networks[0]))
    parts = [_ask(model, networks, chunk, axes, keep=keep, beat=beat) for chunk in x.split(rows)]
    return {name: joined([part[name] for part in parts]) for name in parts[0]}


def _units(network: Network) -> int:
    return sum(site.units for site in network.sites) + 1


def _ask(model: Model, networks: list[Network], x: Tensor, axes: Axes, *, keep: bool, beat: Callable[[], None]) -> dict[str, Answer]:
    pools: dict[str, ClassPool | NumberPool] = {
        target.name: ClassPool(axes.combine, keep=keep) if target.task == "classification" else NumberPool(keep=keep)
        for target in model.spec.targets or ()
    }
    weights = network_weights(axes, len(networks))
    for i, network in enumerate(networks):
        at = 0
        for masks, shares in mask_sets(network, axes, member=axes.members[i], rows=len(x)):
            own = shares_of(weights[i], shares, at if masks else None)
            at += len(shares)
            beat()
            said = network.distributions(x, Replayed(masks) if masks else SCALED)
            for name, answer in said.items():
                pools[name].add(answer if masks else _with_axis(answer), own)
    return {name: pool.answer() for name, pool in pools.items()}


def _with_axis(said: Distribution) -> Distribution:
    """The answers with a networks' axis in front."""
    return Distribution(*(None if part is None else part.unsqueeze(0) for part in said))


def check_axes(model: Model, axes: Axes) -> None:
    """Raises Invalid or ModeUnavailable where the model cannot be asked at this point, before any row is looked at."""
    network_weights(axes, len(axes.members))
    if axes.dropout == "exact":
        for member in axes.members:
            _enumerable([site for site in model.networks[member].sites if site.rate > 0])


def droppable(model: Model) -> int:
    """Units that training could drop, in the member with most of them."""
    return max(sum(site.units for site in network.sites if site.rate > 0) for network in model.networks)


def networks_asked(model: Model, axes: Axes) -> int:
    """Members times masks."""
    masks = {"monte_carlo": axes.samples, "exact": 1 << min(droppable(model), EXACT_UNITS)}
    return len(axes.members) * masks.get(axes.dropout, 1)


def _enumerable(sites: list[Site]) -> int:
    units = sum(site.units for site in sites)
    if units > EXACT_UNITS:
        raise ModeUnavailable(f"exact enumerates the masks of at most {EXACT_UNITS} droppable units; the network has {units}.")
    return units


def network_weights(axes: Axes, count: int) -> Tensor:
    """Weights of the networks: [K], shared among a member's masks, or [K, S] where a list names each network."""
    if isinstance(axes.weights, str):
        shares = torch.tensor(axes.shares or (1.0,) * count, dtype=torch.float64)
        return shares / shares.sum()
    if axes.dropout == "exact":
        raise ModeUnavailable("Every mask has its own probability; exact takes no list of weights.")
    samples = axes.samples if axes.dropout == "monte_carlo" else 1
    if len(axes.weights) != count * samples:
        raise invalid("/weights", "shape-mismatch", f"{len(axes.weights)} weights for {count * samples} networks")
    weights = torch.tensor(axes.weights, dtype=torch.float64)
    return (weights / weights.sum()).view(count, samples)


def shares_of(own: Tensor, shares: Tensor, at: int | None) -> Tensor:
    """The weights [m] of a member's masks from number `at` on: shares of its one weight [], or the listed ones of [S].

    Without `at` the member is asked once for all its masks, since nothing is dropped.
    """
    if own.ndim == 0:
        return shares * own
    return own[at : at + len(shares)] if at is not None else own.sum().view(1)


def mask_sets(network: Network, axes: Axes, *, member: int, rows: int) -> Iterator[tuple[Masks, Tensor]]:
    """Chunks of masks by site, [S, 1, units], with the share of each in the average; none under weight scaling.

    A mask is a subnetwork, the same for every row, so that a row's answer does not depend on its neighbours.
    """
    sites = [site for site in network.sites if site.rate > 0]
    most = max(1, CHUNK_ENTRIES // (_units(network) * max(rows, 1)))
    if axes.dropout == "weight_scaled" or not sites:
        yield {}, torch.ones(1, dtype=torch.float64)
    elif axes.dropout == "exact":
        yield from _all_masks(sites, most, network.preprocess.shift.dtype)
    else:
        yield from _drawn_masks(sites, axes, member, most)


def _drawn_masks(sites: list[Site], axes: Axes, member: int, most: int) -> Iterator[tuple[Masks, Tensor]]:
    samples = axes.samples if axes.dropout == "monte_carlo" else 1
    streams = {site.name: torch.Generator().manual_seed(derive(axes.seed, member, f"masks {site.name}")) for site in sites}
    for start in range(0, samples, most):
        count = min(most, samples - start)
        masks = {
            site.name: torch.stack([draw_mask((1, site.units), site.rate, streams[site.name]) for _ in range(count)]) for site in sites
        }
        yield masks, torch.full((count,), 1.0 / samples, dtype=torch.float64)


def _all_masks(sites: list[Site], most: int, dtype: torch.dtype) -> Iterator[tuple[Masks, Tensor]]:
    """Every mask of at most 16 droppable units, with its probability."""
    units = _enumerable(sites)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)
    for kept in every.split(most):
        masks, shares = {}, torch.ones(len(kept), dtype=torch.float64)
        for site, part in zip(sites, kept.split([site.units for site in sites], dim=1), strict=True):
            masks[site.name] = (part / (1 - site.rate)).to(dtype).unsqueeze(1)
            shares = shares * (part * (1 - site.rate) + (1 - part) * site.rate).prod(1)
        yield masks, shares
