"""The few metrics that every epoch takes on validation, as sums over rows: cheap enough to be taken always."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from service.inference import metrics
from service.tricks.multitask import Target


class Known(NamedTuple):
    """Labels with the gaps filled, and a weight of 1 or 0 for each row that has one or not; None: all have."""

    labels: Tensor
    weights: Tensor | None
    rows: Tensor


def known(target: Target, labels: Tensor) -> Known:
    """What does not change from epoch to epoch."""
    missing = target.missing(labels)
    filled = labels.nan_to_num() if labels.is_floating_point() else labels.clamp(min=0)
    weights = (~missing).float() if bool(missing.any()) else None
    return Known(filled, weights, (~missing).sum().float())


def quick_sums(target: Target, raw: Tensor, truth: Known, scale: Tensor) -> dict[str, Tensor]:
    """Sums over the rows with a label; losses are in normalized units, errors in the target's own."""
    return {"rows": truth.rows, **{name: _sum(values, truth) for name, values in target.scores(raw, truth.labels, scale).items()}}


def _sum(values: Tensor, truth: Known) -> Tensor:
    return values.sum() if truth.weights is None else torch.dot(values, truth.weights.to(values.dtype))


def quick_means(target: Target, sums: Mapping[str, float]) -> dict[str, float]:
    """The metrics by name; NaN where no row has a label."""
    return target.means(sums, sums["rows"] or math.nan)


def measured(target: Target, raw: Tensor, truth: Known, mean: Tensor, std: Tensor) -> dict[str, float]:
    """All metrics of raw outputs on rows, in the target's own unit."""
    known = truth.weights > 0 if truth.weights is not None else torch.ones(len(raw), dtype=torch.bool)
    raw, labels = raw[known].double(), truth.labels[known]
    if target.says == "classes":
        p = raw.softmax(-1).numpy()
        return metrics.classification(p, labels.numpy()) if labels.ndim == 1 else metrics.distribution(p, labels.double().numpy())
    said = target.read(raw, mean.double(), std.double())
    if said.mean is None:
        raise TypeError("a head of numbers says means")
    variance = said.variance.numpy() if said.variance is not None else None
    return metrics.regression(said.mean.numpy(), (labels.double() * std + mean).numpy(), variance)
