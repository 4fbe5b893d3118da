"""The pictures of a model's report, as SVG. Only the step that publishes a model loads matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from service.inference.features import features as features_of
from service.inference.measuring import Inquiry
from service.inference.plots.augmentation import augmentation
from service.inference.plots.averages import dropout_error, ensemble_error
from service.inference.plots.calibration import coverage, quantile_coverage, reliability
from service.inference.plots.confusion import confusion_matrix
from service.inference.plots.curves import Histories, learning_curves
from service.inference.plots.features import features
from service.inference.plots.gradients import gradients
from service.inference.pools import Classes
from service.inference.report import default_axes

__all__ = [
    "all_plots",
    "confusion_matrix",
    "coverage",
    "dropout_error",
    "ensemble_error",
    "learning_curves",
    "quantile_coverage",
    "reliability",
]


def all_plots(
    inquiry: Inquiry, measured: Mapping[str, Any], *, histories: Histories, summaries: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    """The pictures by file name, without those that this model has nothing to show for; `measured` is its report."""
    counts = measured["confusion_matrix"]
    trained = any(series.get("train.loss") for series in histories.values())
    together, dropped = measured["ensemble"], measured["dropout"]
    way = dropped["convergence"] if dropped else None
    seen = features_of(inquiry)
    found = {
        "learning_curves.svg": learning_curves(histories, inquiry.model.spec, summaries) if trained else None,
        "confusion_matrix.svg": confusion_matrix(counts) if counts and any(map(any, counts["matrix"])) else None,
        "reliability.svg": _calibration(inquiry),
        "ensemble.svg": ensemble_error(together) if together else None,
        "dropout.svg": dropout_error(way) if way else None,
        "augmentation.svg": _augmentation(inquiry),
        "features.svg": features(seen) if seen is not None else None,
        "gradients.svg": gradients(measured["gradients"], len(summaries)) if measured["gradients"] else None,
    }
    return {name: content for name, content in found.items() if content is not None}


def _augmentation(inquiry: Inquiry) -> bytes | None:
    """Rows as the best member saw them."""
    model = inquiry.model
    return augmentation(inquiry.material, (model.numbers or range(model.size))[model.best]) if model.spec.augmentation else None


def _calibration(inquiry: Inquiry) -> bytes | None:
    """Reliability or coverage of the first target on test, at the point of the axes that answers by default."""
    target, test, material = inquiry.targets[0], inquiry.material.parts.test, inquiry.material
    if not len(test):
        return None
    answer = inquiry.answers("test", default_axes(inquiry.model))[target.name]
    if isinstance(answer, Classes):
        if not target.calibrates:
            return None
        return reliability(answer.probabilities.numpy(), material.labels[target.name][torch.from_numpy(test)].numpy())
    truth = material.truth(target, test)
    if answer.quantiles is not None:
        return quantile_coverage(answer.quantiles.numpy(), target.quantiles or (), truth)
    # The spread that `interval` of a prediction uses: of what is known, noise and members.
    std = answer.variance.sqrt().numpy() if answer.variance is not None else None
    return coverage(answer.mean.numpy(), std, truth)
