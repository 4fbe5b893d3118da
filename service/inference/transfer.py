"""Transfer: what rows that were moved against one member do to the others, and to all of them together."""

from collections.abc import Sequence
from typing import Any

from service.inference.asking import ask
from service.inference.pools import Classes
from service.inference.robustness import Subject
from service.inference.trials import STEPS, Trial
from service.tricks.attacks import PGD, Perturbation
from service.tricks.modes import Asking
from service.tricks.perturbation import Source
from service.tricks.targets import agrees

MOST_MEMBERS = 8
"""Members that are attacked: the first of those that answer."""


def transfer(subject: Subject, lead: Perturbation, epsilons: Sequence[float]) -> dict[str, Any] | None:
    """Accuracies at the middle epsilon of rows moved by PGD on the margin, over the rows that were right; null for one member.

    `members`: `accuracy[i][j]` is member j's on rows made on member i; `together[i]` is that of the predictor on them, and
    `direct` that on rows made on the predictor itself.
    """
    members, positive = subject.axes.members[:MOST_MEMBERS], [epsilon for epsilon in epsilons if epsilon > 0]
    if len(members) < 2 or not positive or not bool(subject.right.any()):
        return None
    trial = Trial(subject, lead, positive)
    epsilon = positive[len(positive) // 2]
    table, together = [], []
    for member in members:
        outcome = subject.attack(trial.alike(PGD, epsilon, steps=STEPS, loss="margin", source=Source(members=member)))
        together.append(float(outcome.standing.float().mean()))
        table.append([_accuracy(subject, outcome.moved, other) for other in members])
    direct = trial.left(PGD, epsilon, steps=STEPS, loss="margin")
    return {"epsilon": epsilon, "members": list(members), "accuracy": table, "together": together, "direct": direct}


def _accuracy(subject: Subject, moved: Any, member: int) -> float:
    """A member's accuracy, weight-scaled."""
    answer = ask(subject.model, moved, Asking(members=member).axes(subject.model), beat=subject.beat)[subject.target]
    return float(agrees(answer.prediction, subject.labels).float().mean()) if isinstance(answer, Classes) else float("nan")
