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

    Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty to weigh losses", section 3; it may be negative.
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
