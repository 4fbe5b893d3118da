"""Early stopping: keep the best weights seen on validation, and stop when they no longer get better.

Goodfellow, Bengio, Courville 2016, "Deep Learning", Algorithm 7.1.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from service.tricks.choices import Only
from service.values import Value

RISING = frozenset({"accuracy", "balanced_accuracy", "f1_macro", "auroc", "r2"})


def improves(metric: str) -> Literal["up", "down"]:
    """The direction in which a metric, with or without its target's name, gets better."""
    return "up" if metric.rsplit(".", 1)[-1] in RISING else "down"


@dataclass(frozen=True)
class Patience:
    """Progress of the rule: the best value so far, its epoch and step, and evaluations since without improvement."""

    best: float | None = None
    epoch: int = 0
    step: int = 0
    waited: int = 0


class EarlyStopping(Value):
    """Stop after `patience` evaluations in a row that do not beat the best by more than `min_delta`."""

    monitor: str = "loss"
    """The metric on validation that decides: loss, error, or <target>.<metric>."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs in a row without improvement after which training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much an epoch has to beat the best one."""
    then: Literal["restore_best"] = "restore_best"
    """What happens after the stop: the best weights are restored."""
    retrain_by: Literal["steps"] = "steps"
    """How long a second training would last."""
    cap_epochs: Annotated[int | None, Only(None)] = None
    """The longest that training would go on after the stop."""

    def observe(self, progress: Patience, value: float, *, epoch: int, step: int) -> Patience:
        """The progress after one evaluation. What is not a finite number never improves; a tie keeps the earlier."""
        sign = -1.0 if improves(self.monitor) == "up" else 1.0
        best = progress.best
        better = math.isfinite(value) and (best is None or sign * value < sign * best - self.min_delta)
        if better:
            return Patience(best=value, epoch=epoch, step=step)
        return replace(progress, waited=progress.waited + 1)

    def stops(self, progress: Patience) -> bool:
        """Whether patience is used up."""
        return progress.waited >= self.patience


def equivalent_l2(steps: int, learning_rate: float) -> float:
    """The alpha of alpha * sum w^2 that early stopping of plain gradient descent resembles: 1 / (2 eta tau).

    Deep Learning, eq. 7.45, which writes (alpha / 2) w^2; it holds only along directions whose curvature lam has
    eta * lam * tau much below 1, and for Adam not at all.
    """
    return 1.0 / (2.0 * learning_rate * max(steps, 1))
