"""The few metrics that every epoch takes on validation, as sums over rows: cheap enough to be taken always."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from service.inference import metrics
from service.tricks.multitask import Classification, Target

QUICK = {"classification": ("rows", "loss", "hits", "brier"), "regression": ("rows", "loss", "squares", "magnitudes")}
"""Sums by task; what they are sums of follows from `quick_means`."""


class Known(NamedTuple):
    """Labels with the gaps filled, and a weight of 1 or 0 for each row that has one or not; None: all have."""

    labels: Tensor
    weights: Tensor | None
    rows: Tensor


def known(target: Target, labels: Tensor) -> Known:
    """What does not change from epoch to epoch."""
    missing = target.missing(labels)
    filled = labels.clamp(min=0) if isinstance(target, Classification) else labels.nan_to_num()
    weights = (~missing).float() if bool(missing.any()) else None
    return Known(filled, weights, (~missing).sum().float())


def quick_sums(target: Target, raw: Tensor, truth: Known, scale: Tensor) -> dict[str, Tensor]:
    """Sums over the rows with a label; losses are in normalized units, errors in the target's own."""
    losses = _sum(target.losses(raw, truth.labels), truth)
    if isinstance(target, Classification):
        hits = _sum((raw.argmax(-1) == truth.labels).float(), truth)
        p = raw.softmax(-1)
        right = p.gather(1, truth.labels.unsqueeze(1)).squeeze(1)
        # |p - onehot|^2 = |p|^2 - 2 p_y + 1.
        brier = _sum(p.square().sum(-1) - 2 * right + 1, truth)
        return {"rows": truth.rows, "loss": losses, "hits": hits, "brier": brier}
    errors = (raw[..., : truth.labels.shape[-1]] - truth.labels) * scale
    return {
        "rows": truth.rows,
        "loss": losses,
        "squares": _sum(errors.square().mean(-1), truth),
        "magnitudes": _sum(errors.abs().mean(-1), truth),
    }


def _sum(values: Tensor, truth: Known) -> Tensor:
    return values.sum() if truth.weights is None else torch.dot(values, truth.weights)


MEASURED = frozenset({"loss", "accuracy", "error", "nll", "brier", "rmse", "mse", "mae"})
"""What `quick_means` gives; other metrics take a look at all rows at once."""


def measured(target: Target, raw: Tensor, truth: Known, mean: Tensor, std: Tensor) -> dict[str, float]:
    """All metrics of raw outputs on rows, in the target's own unit."""
    known = truth.weights > 0 if truth.weights is not None else torch.ones(len(raw), dtype=torch.bool)
    raw, labels = raw[known].double(), truth.labels[known]
    if isinstance(target, Classification):
        return metrics.classification(raw.softmax(-1).numpy(), labels.numpy())
    said = target.read(raw, mean.double(), std.double())
    if said.mean is None:
        raise TypeError("a regression head says means")
    variance = said.variance.numpy() if said.variance is not None else None
    return metrics.regression(said.mean.numpy(), (labels.double() * std + mean).numpy(), variance)


def quick_means(target: Target, sums: dict[str, float]) -> dict[str, float]:
    """The metrics by name; NaN where no row has a label."""
    rows = sums["rows"] or math.nan
    loss = sums["loss"] / rows
    if isinstance(target, Classification):
        accuracy = sums["hits"] / rows
        return {"loss": loss, "accuracy": accuracy, "error": 1 - accuracy, "nll": loss, "brier": sums["brier"] / rows}
    mse = sums["squares"] / rows
    return {"loss": loss, "rmse": math.sqrt(mse), "mse": mse, "mae": sums["magnitudes"] / rows}
