"""Criteria: what an attack raises, from the scores of the classes; where there is a goal, it is what leads to that class."""

import math
from typing import Literal

import torch
from torch import Tensor

CriterionName = Literal["cross_entropy", "margin", "dlr"]


def criterion(name: CriterionName, scores: Tensor, labels: Tensor, goal: Tensor | None = None) -> Tensor:
    """The criterion [N] of scores [N, C]: logits or log probabilities; too few classes for the DLR loss have the margin."""
    if name == "cross_entropy":
        return cross_entropy(scores, labels, goal)
    if name == "margin" or scores.shape[-1] < (3 if goal is None else 4):
        return margin(scores, labels, goal)
    return dlr(scores, labels, goal)


def cross_entropy(scores: Tensor, labels: Tensor, goal: Tensor | None = None) -> Tensor:
    """-log p(label); log p(goal)."""
    logs = scores.log_softmax(-1)
    return -_of(logs, labels) if goal is None else _of(logs, goal)


def margin(scores: Tensor, labels: Tensor, goal: Tensor | None = None) -> Tensor:
    """The best other score less the label's; the goal's less the best other: positive where the attack has won."""
    place = labels if goal is None else goal
    others = scores.scatter(-1, place.unsqueeze(1), -math.inf).amax(-1)
    return others - _of(scores, labels) if goal is None else _of(scores, goal) - others


def dlr(scores: Tensor, labels: Tensor, goal: Tensor | None = None) -> Tensor:
    """The difference of logits ratio: scale and shift of the scores do not matter (Croce and Hein 2020, section 5).

    Untargeted: the margin over (first - third); targeted: (goal - label) over (first - (third + fourth) / 2).
    """
    ordered = scores.sort(-1, descending=True).values
    if goal is None:
        others = scores.scatter(-1, labels.unsqueeze(1), -math.inf).amax(-1)
        return (others - _of(scores, labels)) / (ordered[:, 0] - ordered[:, 2]).clamp(min=1e-12)
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    # On the way to the label itself (goal - label) is 0 everywhere: there the best other takes the label's place.
    rival = torch.where(goal == labels, scores.scatter(-1, goal.unsqueeze(1), -math.inf).amax(-1), _of(scores, labels))
    return (_of(scores, goal) - rival) / spread.clamp(min=1e-12)


def _of(scores: Tensor, places: Tensor) -> Tensor:
    return scores.gather(-1, places.unsqueeze(1)).squeeze(1)
