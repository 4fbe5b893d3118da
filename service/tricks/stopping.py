"""Early stopping: keep the best weights seen on validation, stop when they no longer get better, and what may follow.

Goodfellow, Bengio, Courville 2016, "Deep Learning", Algorithms 7.1 to 7.3.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from service.values import Value

RISING = frozenset({"accuracy", "balanced_accuracy", "f1_macro", "auroc", "r2"})

SECOND = "retraining."
"""What the names of a second phase's series begin with: it has other training rows, and nothing to validate on."""


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


@dataclass(frozen=True)
class Second:
    """A member's second phase: the epochs and steps that it begins after, the step that is its last, and the loss that ends it."""

    epoch: int
    step: int
    last: int
    by_epochs: bool = False
    """Whether it lasts as many epochs as the first, not steps."""
    threshold: float | None = None
    loss: float | None = None
    """On the validation rows, after the last epoch; None where it ends nothing."""

    def ends(self, step: int, loss: float | None) -> str | None:
        """Why it ends at that step with that loss on validation rows; a loss that is not a number ends nothing."""
        if self.threshold is not None and loss is not None and loss <= self.threshold:
            return "threshold"
        if step < self.last:
            return None
        return "retrained" if self.threshold is None else "cap"

    def share(self, step: int) -> float:
        """The part of its steps that are done."""
        return (step - self.step) / max(1, self.last - self.step)

    def describe(self, *, epoch: int, step: int) -> dict[str, Any]:
        """What it came to, where it ended at that epoch and step."""
        lasted = {"epochs": epoch - self.epoch, "steps": step - self.step}
        return {**lasted, "threshold": self.threshold, "validation_loss": self.loss}


class EarlyStopping(Value):
    """Stop after `patience` evaluations in a row that do not beat the best by more than `min_delta`."""

    monitor: str = "loss"
    """The metric on validation that decides: loss, error, adversarial_loss, or <target>.<metric>."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs in a row without improvement after which training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much an epoch has to beat the best one."""
    then: Literal["restore_best", "retrain", "continue"] = "restore_best"
    """Then: keep the best weights; or train on validation rows too, anew for as long, or on from the best weights."""
    retrain_by: Literal["steps", "epochs"] = "steps"
    """How long `retrain` trains: as many steps as the best weights took, or as many epochs, which are longer."""
    cap_epochs: Annotated[int, Field(ge=1)] | None = None
    """Most epochs of `continue`; null: as many as there were until it stopped."""

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

    @property
    def goes_on(self) -> bool:
        """Whether a second phase follows, on training and validation rows."""
        return self.then != "restore_best"

    def first_share(self, epochs: int) -> float:
        """The share of the first phase in a member's work, where both last as long as they may."""
        return 1.0 if not self.goes_on else 0.5 if self.then == "retrain" else 1 / (1 + (self.cap_epochs or epochs) / epochs)

    def second(self, progress: Patience, *, epochs: int, every: int, longer: int, threshold: float | None) -> Second:
        """The phase that follows `epochs` epochs of `every` steps; its own have `longer` steps, since it has more rows.

        `threshold` is the loss of the best weights on the training rows, for `continue`.
        """
        if self.then == "continue":
            return Second(epochs, progress.step, progress.step + (self.cap_epochs or epochs) * longer, threshold=threshold)
        by_epochs = self.retrain_by == "epochs"
        return Second(epochs, 0, round(progress.step * longer / every) if by_epochs else progress.step, by_epochs)

    def most_steps(self, first: int, *, epochs: int, every: int, longer: int) -> int:
        """The most steps that a second phase takes after at most `first` steps of at most `epochs` epochs."""
        if not self.goes_on:
            return 0
        second = self.second(Patience(step=first), epochs=epochs, every=every, longer=longer, threshold=0.0)
        return second.last - second.step


def equivalent_l2(steps: int, learning_rate: float) -> float:
    """The alpha of alpha * sum w^2 that early stopping of plain gradient descent resembles: 1 / (2 eta tau).

    Deep Learning, eq. 7.45, which writes (alpha / 2) w^2; it holds only along directions whose curvature lam has
    eta * lam * tau much below 1, and for Adam not at all.
    """
    return 1.0 / (2.0 * learning_rate * max(steps, 1))


def ridge_share(curvature: float, *, steps: int, learning_rate: float) -> float:
    """The L2 strength that stopping along a direction of that curvature equals exactly, as a share of `equivalent_l2`.

    Descent from 0 leaves (1 - eta lam)^tau of the way to the minimum, as ridge lam q / (1 - q) does for that q (for alpha / 2
    w^2; Deep Learning, eq. 7.43 and 7.44); nan where a step is longer than the way and descent overshoots.
    """
    step = learning_rate * curvature
    if not 0 < step <= 1:
        return math.nan
    left = steps * math.log1p(-step) if step < 1 else -math.inf
    return step * steps * math.exp(left) / -math.expm1(left)
