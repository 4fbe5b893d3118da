"""Curves of attacks over sizes: what one shard of rows contributes to a robustness result."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from service.inference import certifying
from service.inference.boxes import placed
from service.inference.pools import Numbers
from service.inference.robustness import Outcome, Subject
from service.tricks.attacks import AnyAttack, Corruption, Minimal, Perturbation
from service.tricks.norms import rows

UNBOUNDED = 1e30
Point = dict[str, Any]


def piece(subject: Subject, attacks: Sequence[AnyAttack], epsilons: Sequence[float]) -> dict[str, Any]:
    """What one shard of rows contributes."""
    return {
        "right": subject.right.tolist(),
        "errors": subject.errors(subject.x) if isinstance(subject.clean, Numbers) else None,
        "curves": [curve(subject, attack, epsilons) for attack in attacks],
        "verified": certifying.verified(subject, attacks, epsilons),
    }


def curve(subject: Subject, attack: AnyAttack, epsilons: Sequence[float]) -> list[Point]:
    """Per epsilon, or per severity, what one attack left standing, row by row."""
    if isinstance(attack, Corruption):
        return [_corrupted(subject, attack.sized(severity), severity) for severity in attack.sizes(epsilons)]
    if isinstance(attack, Minimal):
        return _minimal(subject, attack, epsilons)
    points, before = [], subject.right.clone()
    for epsilon in epsilons:
        sized = attack.sized(epsilon)
        found = subject.attack(sized)
        points.append(_met(subject, sized, found, before))
        before &= found.standing
    return points


def _minimal(subject: Subject, attack: Minimal, epsilons: Sequence[float]) -> list[Point]:
    """The curve of minimal distances, all of it read off one search that no epsilon bounds."""
    found = subject.attack(attack.sized(UNBOUNDED))
    distances = torch.full((len(subject.x),), torch.inf) if found.distances is None else found.distances
    distances = torch.where(subject.right & ~found.standing, distances, torch.inf)
    points, before = [], subject.right.clone()
    for epsilon in epsilons:
        beyond = distances > epsilon
        moved = torch.where(rows(beyond, subject.x), subject.x, found.moved)
        at = found._replace(moved=moved, standing=subject.right & beyond)
        points.append(_met(subject, attack.sized(epsilon), at, before))
        before &= beyond
    # JSON knows no infinity: null where no broken point was found, and for rows that were wrong before.
    points[0]["distances"] = [distance if math.isfinite(distance) else None for distance in distances.tolist()]
    return points


def _met(subject: Subject, attack: Perturbation, found: Outcome, before: Tensor) -> Point:
    """One point of a curve; `fell` are the rows that no smaller epsilon broke, with their perturbation and nearest training row."""
    lengths = placed(attack, subject.model).measured(found.moved - subject.x, attack.ball)
    lengths = lengths.clamp(max=torch.finfo(lengths.dtype).max)  # squares overflow, and JSON has no infinity
    point: Point = {
        "epsilon": attack.epsilon,
        "standing": found.standing.tolist(),
        "largest": float(lengths.max()) if len(lengths) else 0.0,
        "flat": int(found.flat.sum()) if found.flat is not None else None,
    }
    if found.rungs is not None:
        point["rungs"] = found.rungs.tolist()
    if isinstance(subject.clean, Numbers):
        return {**point, "errors": subject.errors(found.moved)}
    fell = (before & ~found.standing).nonzero().squeeze(1)
    nearest = subject.nearest_other(found.moved[fell], fell, attack)
    return {**point, "fell": [[int(row), float(lengths[row]), near] for row, near in zip(fell, nearest, strict=True)]}


def _corrupted(subject: Subject, corruption: Corruption, severity: float) -> Point:
    found = subject.attack(corruption)
    change = (found.moved - subject.x).flatten(1).abs()
    point: Point = {"severity": int(severity), "standing": found.standing.tolist(), "largest": float(change.max()), "flat": None}
    return {**point, "errors": subject.errors(found.moved)} if isinstance(subject.clean, Numbers) else point
