"""Targets: what heads predict, and how their losses become one, by fixed weights or by learned ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from service.tricks.classification import Classification
from service.tricks.reconstruction import Reconstruction
from service.tricks.regression import VARIANCE_FLOOR, Regression, gaussian
from service.tricks.soft_labels import SoftLabels
from service.tricks.targets import Distribution, Head, mean_loss

__all__ = [
    "VARIANCE_FLOOR",
    "Classification",
    "Distribution",
    "Head",
    "LearnedWeight",
    "Reconstruction",
    "Regression",
    "SoftLabels",
    "Target",
    "gaussian",
    "mean_loss",
    "total",
    "weighted",
]
T = TypeVar("T", float, Tensor)


class LearnedWeight(nn.Module):
    """The weight of a target by its own noise s^2, of which log s^2 is learned: a parameter [], of a stack [K], that nothing shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))


def weighted(target: Head, loss: T, log_variance: T | None = None) -> T:
    """A target's part of the objective: weight L, or L / (2 s^2) + log s of numbers and L / s^2 + log s of classes.

<<<<<<< HEAD
    Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty to weigh losses", section 3; it may be negative.
=======

class Distribution(NamedTuple):
    """What a head says of a row in the user's units: logits [.., C], or mean [.., D] and variance [.., D] or None."""

    logits: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None


class _Target(Value):
    """What all targets share; a field of another task keeps its default."""

    name: TargetName
    """The field that holds the labels."""
    weight: TargetWeight = 1.0
    """This target's share in the objective."""
    output: Literal["identity"] = "identity"
    """The head's output function."""
    class_weights: Annotated[Any, Only(None)] = None
    """Weights of the classes."""
    label_smoothing: Annotated[float, Only(0.0)] = 0.0
    """Share of a label that goes to the other classes."""
    noise_std: Annotated[Any, Only(None)] = None
    """Observation noise in the target's unit."""
    decision: Literal["argmax"] = "argmax"
    """How probabilities become a class: the most probable one."""
    gamma: Annotated[Any, Only(None)] = None
    """Of the focal loss."""
    delta: Annotated[Any, Only(None)] = None
    """Of the Huber loss."""
    quantiles: Annotated[Any, Only(None)] = None
    """Of the quantile loss."""


class Classification(_Target):
    """One of C classes; labels are indices, -1 where missing, or where rows were mixed their shares of the classes, NaN where missing."""

    task: Literal["classification"] = "classification"
    """One of several classes."""
    loss: Literal["cross_entropy"] = "cross_entropy"
    """Cross-entropy."""

    def outputs(self, width: int) -> int:
        """Raw outputs of the head for C = `width` classes."""
        return width

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats per row [.., N]; raw [.., N, C], labels without missing ones: int64 [.., N], or shares [.., N, C]."""
        if labels.is_floating_point():
            return -(labels * raw.log_softmax(-1)).sum(-1)
        return F.cross_entropy(raw.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)

    def loss_of(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses` over the rows; in one kernel where there is one member."""
        return F.cross_entropy(raw, labels) if labels.ndim == 1 else self.losses(raw, labels).mean(-1)

    def missing(self, labels: Tensor) -> Tensor:
        """Rows without a label, as booleans [.., N]."""
        return labels.isnan().any(-1) if labels.is_floating_point() else labels < 0

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The raw outputs as a distribution."""
        return Distribution(logits=raw)


class Regression(_Target):
    """D numbers, standardized inside the model; labels float32 [.., N, D] in normalized units, NaN where missing."""

    task: Literal["regression"] = "regression"
    """One number or several."""
    loss: Literal["mse", "gaussian_nll"] = "mse"
    """Squared error, or the likelihood of a Gaussian whose variance is learned too."""

    def outputs(self, width: int) -> int:
        """Raw outputs of the head for D = `width` numbers: a mean each, and a variance with a Gaussian loss."""
        return 2 * width if self.loss == "gaussian_nll" else width

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Loss per row [.., N] in normalized units, the mean over the D outputs."""
        if self.loss == "mse":
            return (raw - labels).square().mean(-1)
        mean, variance = gaussian(raw)
        terms = 0.5 * (math.log(2 * math.pi) + variance.log() + (labels - mean).square() / variance)
        return terms.mean(-1)

    def loss_of(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses` over the rows; in one kernel where there is one member."""
        one = self.loss == "mse" and labels.ndim == 2
        return F.mse_loss(raw, labels) if one else self.losses(raw, labels).mean(-1)

    def missing(self, labels: Tensor) -> Tensor:
        """Rows without a label, as booleans [.., N]: a row counts where all its numbers are there."""
        return labels.isnan().any(-1)

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The raw outputs in the target's own unit, mean and std being those of its training rows."""
        if self.loss == "mse":
            return Distribution(mean=raw * std + mean)
        center, variance = gaussian(raw)
        return Distribution(mean=center * std + mean, variance=variance * std.square())


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [.., D] of a Gaussian head's raw outputs [.., 2 D]; variance softplus + 1e-6 (Lakshminarayanan 2017)."""
    center, spread = raw.chunk(2, dim=-1)
    return center, F.softplus(spread) + VARIANCE_FLOOR


def mean_loss(target: "Classification | Regression", raw: Tensor, labels: Tensor) -> Tensor:
    """The mean loss over the rows whose label is known, [] or each member's; 0 without gradient where none is.

    Missing labels are replaced before the loss sees them: NaN times 0 is NaN.
>>>>>>> 9377f09 (Augmentation of images and mixes, from a stream per row and epoch)
    """
    if isinstance(target.weight, float):
        return loss if target.weight == 1.0 else loss * target.weight
    if log_variance is None:
        raise TypeError("a learned weight is a number somewhere")
    precision = torch.exp(-log_variance) if isinstance(log_variance, Tensor) else math.exp(-log_variance)
    return loss * precision * (0.5 if target.halves else 1.0) + 0.5 * log_variance


def total(targets: Sequence[Head], losses: Mapping[str, float], log_variances: Mapping[str, float]) -> float:
    """The weighted sum of the targets' mean losses; NaN where one is."""
    return sum(weighted(target, losses[target.name], log_variances.get(target.name)) for target in targets)


Target = Annotated[Classification | Regression | SoftLabels | Reconstruction, Field(discriminator="task")]
