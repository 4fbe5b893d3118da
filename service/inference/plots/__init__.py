"""The pictures of a model's report, as SVG. Only the step that publishes a model loads matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.inference.asking import ask
from service.inference.material import Material
from service.inference.model import Model
from service.inference.plots.calibration import coverage, reliability
from service.inference.plots.confusion import confusion_matrix
from service.inference.plots.curves import Histories, learning_curves
from service.inference.pools import Classes
from service.inference.report import default_axes

__all__ = ["all_plots", "confusion_matrix", "coverage", "learning_curves", "reliability"]


def all_plots(
    model: Model, material: Material, measured: Mapping[str, Any], *, histories: Histories, summaries: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    """The pictures by file name, without those that this model has nothing to show for; `measured` is its report."""
    counts = measured["confusion_matrix"]
    trained = any(series.get("train.loss") for series in histories.values())
    found = {
        "learning_curves.svg": learning_curves(histories, model.spec, summaries) if trained else None,
        "confusion_matrix.svg": confusion_matrix(counts) if counts and any(map(any, counts["matrix"])) else None,
        "reliability.svg": _calibration(model, material),
    }
    return {name: content for name, content in found.items() if content is not None}


def _calibration(model: Model, material: Material) -> bytes | None:
    """Reliability or coverage of the first target on test, at the point of the axes that answers by default."""
    target, test = (model.spec.targets or ())[0], material.parts.test
    if not len(test):
        return None
    x, labels = material.rows(test)
    answer = ask(model, x.float(), default_axes(model))[target.name]
    if isinstance(answer, Classes):
        return reliability(answer.probabilities.numpy(), labels[target.name].numpy())
    # The spread that `interval` of a prediction uses: of what is known, noise and members.
    std = answer.variance.sqrt().numpy() if answer.variance is not None else None
    return coverage(answer.mean.numpy(), std, material.originals[target.name][test])
