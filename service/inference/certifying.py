"""What intervals through the deployed predictor verify (Gowal et al. 2018): classes that nothing within epsilon changes, and errors.

Bounds are computed in float64. A row counts as verified where they leave more than float32 rounding of the answer itself, and an
error's bound is wider by as much.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from service.inference.asking import network_weights
from service.inference.boxes import placed, reach
from service.inference.model import Model
from service.inference.robustness import Subject
from service.nets import bounds
from service.nets.intervals import Interval, Unbounded
from service.tricks.attacks import AnyAttack, Corruption
from service.tricks.modes import Axes

ENTRIES = 4_000_000
"""Numbers of the merged last layer, rows times classes times features, that are held at once."""
MOST_PAIRED = 64
"""Most classes whose pairs are bounded in each member: of more, members are verified one by one."""
WIDER, SLACK = 1e-6, 1e-5
"""By how much boxes are wider than epsilon, and what a margin has to be above, both relative: rounding in float32 is below."""
FLOAT32 = 1e-6
"""What an answer loses at most where the mean of the target is added to it, relative to that mean."""


def refusal(model: Model, axes: Axes, attacks: Sequence[AnyAttack]) -> str | None:
    """Why rows cannot be verified, in words; None where they can."""
    target = (model.spec.targets or ())[0]
    if target.from_inputs:
        return "what a reconstruction has to be moves with the row"
    if target.says == "classes" and model.decision(target) != "argmax":
        return "the class is decided by a threshold or by costs, not by the largest probability"
    if axes.dropout != "weight_scaled":
        return f"{axes.dropout} averages over masks; weight_scaled is one function of the row"
    if all(isinstance(attack, Corruption) for attack in attacks):
        return "corruption has severities and no epsilon"
    return _unbounded(model)


@torch.no_grad()
def _unbounded(model: Model) -> str | None:
    """Which part of the network has no intervals, found with one row; None where all have."""
    row = torch.zeros(1, *model.encoding.shape, dtype=torch.float64)
    try:
        bounds.features(model.precise(0), Interval(row, row))
    except Unbounded as error:
        return f"the network has no bounds: {error}"
    return None


def verified(subject: Subject, attacks: Sequence[AnyAttack], epsilons: Sequence[float]) -> list[Any] | None:
    """Per epsilon, which rows keep their class anywhere within it and the attacks' bounds, in linf; None where `refusal` says why.

    Of numbers per epsilon `absolute` and `squared`, bounds of each row's error, the mean over its outputs; None where there is
    none. All that an attack of the job may make of a row lies in the box that is bounded: that of l2 and l1 holds their balls.
    """
    if refusal(subject.model, subject.axes, attacks) is not None:
        return None
    at = _held if (subject.model.spec.targets or ())[0].says == "classes" else _errors
    return [at(subject, attacks, epsilon) for epsilon in epsilons]


def _held(subject: Subject, attacks: Sequence[AnyAttack], epsilon: float) -> list[bool]:
    """Which rows keep their class."""
    found = [certain(subject.model, subject.axes, box, truth) for box, truth in _boxes(subject, attacks, epsilon)]
    return cast("list[bool]", (torch.cat(found) & subject.right).tolist())


def _errors(subject: Subject, attacks: Sequence[AnyAttack], epsilon: float) -> dict[str, list[float | None]]:
    """The largest errors of each row, in the target's unit."""
    far = torch.cat([farthest(subject.model, subject.axes, box, truth) for box, truth in _boxes(subject, attacks, epsilon)])
    means = {"absolute": far.mean(-1), "squared": far.square().mean(-1)}
    return {name: [error if math.isfinite(error) else None for error in mean.tolist()] for name, mean in means.items()}


def _boxes(subject: Subject, attacks: Sequence[AnyAttack], epsilon: float) -> Iterator[tuple[Interval, Tensor]]:
    """Boxes of all that the attacks may make of some rows, with what is right for them."""
    network = subject.model.networks[subject.axes.members[0]]
    width, features = network.spec.widths[0], network.trunk.features
    rows = max(1, ENTRIES // (width * max(features, width)))
    for x, truth in zip(subject.x.double().split(rows), subject.truth.split(rows), strict=True):
        subject.beat()
        reached = [reach(x, epsilon * (1 + WIDER), placed(each, subject.model)) for each in attacks if not isinstance(each, Corruption)]
        yield _hull(reached), truth


def _hull(boxes: Sequence[Interval]) -> Interval:
    """The smallest box that holds all boxes."""
    low, high = torch.stack([box.low for box in boxes]).amin(0), torch.stack([box.high for box in boxes]).amax(0)
    return Interval.between(low, high)


@torch.no_grad()
def certain(model: Model, axes: Axes, box: Interval, labels: Tensor) -> Tensor:
    """Whether the first target's answer is `labels` [N] for all rows of boxes [N, ...], as far as intervals tell.

    Several networks: where every one says so, or where the bounds of what they are combined to do. Of probabilities
    p_k >= 1 / sum_c exp(-d_kc) and p_k <= 1 / sum_c exp(d_ck), d_kc being the least z_k - z_c.
    """
    weights = network_weights(axes, len(axes.members)).reshape(len(axes.members), -1).sum(1)
    sure = torch.ones(len(labels), dtype=torch.bool)
    total = torch.zeros(len(labels), model.networks[0].spec.widths[0], dtype=torch.float64)
    for member, weight in zip(axes.members, weights, strict=True):
        network = model.precise(member)
        read, target = bounds.features(network, box), network.spec.targets[0]
        own = bounds.margins(network, target, read, labels)
        slack = SLACK * (1 + own.abs().amax(-1, keepdim=True))
        sure &= _others(own > slack, labels).all(-1)
        if len(axes.members) > 1 and len(own[0]) <= MOST_PAIRED:
            pairs = bounds.pairwise(network, target, read) - slack.unsqueeze(-1) if axes.combine != "geometric" else own
            total += weight * _share(pairs, slack, labels, axes)
    # Where nothing was added the total is 0, which decides nothing.
    return sure | _others(total > 0, labels).all(-1)


@torch.no_grad()
def farthest(model: Model, axes: Axes, box: Interval, truth: Tensor) -> Tensor:
    """Upper bounds [N, D] of how far the first target's answer, the networks' weighted mean, lies from numbers [N, D] in boxes [N, ...].

    Every head's mean rises with each of its raw outputs, so that the ends of their intervals are read like any outputs.
    """
    weights = network_weights(axes, len(axes.members)).reshape(len(axes.members), -1).sum(1)
    low, high = torch.zeros_like(truth, dtype=torch.float64), torch.zeros_like(truth, dtype=torch.float64)
    for member, weight in zip(axes.members, weights, strict=True):
        network = model.precise(member)
        target, unit = network.spec.targets[0], network.units[0]
        raw = bounds.bounds(network, box)[target.name]
        ends = [target.read(end, unit.mean, unit.std).mean for end in (raw.low, raw.high)]
        if ends[0] is None or ends[1] is None:
            raise TypeError("a head of numbers says means")
        slack = SLACK * (unit.std + torch.maximum((ends[0] - unit.mean).abs(), (ends[1] - unit.mean).abs()))
        slack = slack + FLOAT32 * unit.mean.abs()
        low, high = low + weight * (ends[0] - slack), high + weight * (ends[1] + slack)
    return torch.maximum((low - truth).abs(), (high - truth).abs())


def _share(pairs: Tensor, slack: Tensor, labels: Tensor, axes: Axes) -> Tensor:
    """What one network adds to the bound [N, C] of the label's lead over each class, as answers are combined."""
    if axes.combine == "geometric":
        return pairs - slack
    at = labels.view(-1, 1, 1).expand(-1, 1, pairs.shape[-1])
    own = pairs.gather(1, at).squeeze(1)
    if axes.combine == "vote":
        wins = _others(own > 0, labels).all(-1, keepdim=True).double()
        loses = (pairs > 0).any(1).double()
        return wins - (1 - loses)
    least = 1 / (-_others(own, labels, 0.0)).exp().sum(-1, keepdim=True)
    return least - 1 / _diagonal(pairs).exp().sum(1)


def _others(values: Tensor, labels: Tensor, own: float | bool = True) -> Tensor:
    """Values [N, C] with another at the label's place."""
    return values.scatter(-1, labels.unsqueeze(-1), own)


def _diagonal(pairs: Tensor) -> Tensor:
    """Pairs [N, C, C] with 0 where a class meets itself."""
    return pairs - torch.diag_embed(pairs.diagonal(dim1=1, dim2=2))
