"""Metrics of a model at a point on its axes, over rows whose labels are known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import blocks
from service.errors import TemperError
from service.inference import metrics
from service.inference.asking import ask, check_axes, droppable, quiet
from service.inference.material import Material
from service.inference.model import Model
from service.inference.pools import Answer, Classes, Numbers, joined
from service.nets.network import Scale
from service.tricks.modes import Asking, Axes, Mode
from service.tricks.multitask import Distribution, Reconstruction, Target, mean_loss, total
from service.tricks.reconstruction import errors

Found = dict[str, float | None]
Rows = NDArray[np.int64]
Answers = dict[str, Answer]
MOST_EXACT = 2_000_000
"""Rows times masks that the report takes time for; beyond, the mode is there to be asked and not in the report."""


class Inquiry:
    """A model asked about the parts of its material, each question once: Monte Carlo passes are dear.

    `beat` is called before each pass.
    """

    def __init__(self, model: Model, material: Material, beat: Callable[[], None] = quiet) -> None:
        self.beat = beat
        self.model = model
        self.material = material
        self.parts = {name: rows for name, rows in material.parts._asdict().items() if len(rows)}
        self._answers: dict[tuple[str, Axes], Answers] = {}

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of the model's spec."""
        return self.model.spec.targets or ()

    def answers(self, part: str, axes: Axes) -> Answers:
        """Each target's answer on the rows of a part; the mode's name and the rule that combines cost no question."""
        question = part, axes._replace(mode="", members_name="", combine="arithmetic")
        if question not in self._answers:
            self._answers[question] = asked(self.model, self.material, self.parts[part], question[1], beat=self.beat)
        found = self._answers[question]
        if axes.combine == "arithmetic":
            return found
        return {name: answer.combined(axes.combine) if isinstance(answer, Classes) else answer for name, answer in found.items()}

    def point(self, mode: Mode) -> Axes | None:
        """Where a mode is on the axes; None where this model has not got it or answering the test rows would take too long."""
        try:
            axes = Asking(mode=mode).axes(self.model)
            check_axes(self.model, axes)
        except TemperError:
            # The mode is not this model's: no dropout, one member, or too many units to enumerate.
            return None
        beyond = mode == "exact" and len(self.parts["test"]) * 2 ** droppable(self.model) > MOST_EXACT
        return None if beyond else axes

    def measure(self, part: str, axes: Axes) -> Found:
        """The metrics on a part."""
        return measure_answers(self.answers(part, axes), self.model, self.material, self.parts[part])


def asked(model: Model, material: Material, rows: Rows, axes: Axes, *, keep: bool = False, beat: Callable[[], None] = quiet) -> Answers:
    """Each target's answer on some rows; several members' own answers are kept, and with `keep` any networks'."""
    keep = keep or (len(axes.members) > 1 and axes.dropout == "weight_scaled")
    row_bytes = 4 * math.prod(material.inputs.shape[1:])
    parts = [ask(model, material.rows(block)[0].float(), axes, keep=keep, beat=beat) for block in blocks(rows, row_bytes)]
    return {name: joined([part[name] for part in parts]) for name in parts[0]}


def center(answer: Answer) -> Tensor:
    """What an answer says in one tensor: probabilities or means."""
    return answer.probabilities if isinstance(answer, Classes) else answer.mean


def measure_answers(answers: Answers, model: Model, material: Material, rows: Rows) -> Found:
    """The metrics of answers on these rows; with several targets `<target>.<metric>` and the weighted `loss`."""
    targets = material.targets
    found = {t.name: of_answer(t, answers[t.name], material, rows, scale) for t, scale in zip(targets, material.scales, strict=True)}
    if len(targets) == 1:
        return found[targets[0].name]
    named: Found = {f"{name}.{metric}": value for name, values in found.items() for metric, value in values.items()}
    losses = {name: loss for name, values in found.items() if (loss := values.get("loss")) is not None}
    return {**named, "loss": total(targets, losses, model.log_variances) if len(losses) == len(targets) else None}


def of_answer(target: Target, answer: Answer, material: Material, rows: Rows, scale: Scale) -> Found:
    """One target's metrics; null where one is not defined on these rows."""
    labels = material.labels[target.name][torch.from_numpy(rows)]
    if isinstance(answer, Classes):
        p = answer.probabilities
        if not target.calibrates:
            found = metrics.distribution(p.numpy(), labels.double().numpy())
        else:
            found = metrics.classification(p.numpy(), labels.numpy(), answer.prediction.numpy())
        if found:
            found["loss"] = found["nll"] if target.plain else float(mean_loss(target, p.clamp(min=metrics.TINY).log(), labels))
        return _finite(found)
    if isinstance(target, Reconstruction):
        return _finite(_reconstruction(target, answer, material, rows, scale))
    return _finite(_regression(target, answer, material.originals[target.name][rows], scale))


def _reconstruction(target: Reconstruction, answer: Numbers, material: Material, rows: Rows, scale: Scale) -> dict[str, float]:
    """Squared errors, means over rows and entries, block by block: rows may be large."""
    sums = {"error_normalized": 0.0, "error_original": 0.0}
    places, std = np.arange(len(rows)), scale.std.double()
    for block in blocks(places, 16 * len(std)):
        truth = torch.from_numpy(material.truth(target, rows[block]))
        for name, error in zip(sums, errors(answer.mean[torch.from_numpy(block)].double(), truth, std), strict=True):
            sums[name] += float(error.sum())
    found = {name: value / len(rows) for name, value in sums.items()}
    return {**found, "loss": found["error_original" if target.loss == "mse_original" else "error_normalized"]}


def _regression(target: Target, answer: Numbers, truth: NDArray[np.float64], scale: Scale) -> dict[str, float]:
    mean = answer.mean.numpy()
    variance = answer.variance.numpy() if answer.aleatoric is not None and answer.variance is not None else None
    kept = answer.members
    members = None
    if kept is not None and kept.mean is not None and kept.variance is not None:
        members = {"mean": kept.mean.double().numpy(), "variance": kept.variance.double().numpy()}
        if answer.weights is not None:
            members["weights"] = answer.weights.numpy()
    found = metrics.regression(mean, truth, variance, members)
    if not found:
        return {}
    said = Distribution(mean=answer.mean, variance=answer.variance, quantiles=answer.quantiles)
    found["loss"] = float(target.said_losses(said, torch.from_numpy(truth), scale.mean.double(), scale.std.double()).mean())
    return found


def _finite(found: dict[str, float]) -> Found:
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The T that minimizes the NLL of softmax(logits / T) (Guo et al. 2017), by bisection on its slope in 1 / T.

    The NLL is convex in b = 1 / T, with slope mean(E_p z - z_y); null where it falls for ever.
    """
    known = labels >= 0
    z, y = logits[known].double(), labels[known]
    if not len(y) or not torch.isfinite(z).all():
        return None
    right = z.gather(-1, y.unsqueeze(1)).squeeze(1)
    if bool((right == z.amax(-1)).all()):
        # Every label is the most probable class: the likelihood rises for ever as T falls.
        return None

    def slope(b: float) -> float:
        return float((((z * b).softmax(-1) * z).sum(-1) - right).mean())

    low, high = 1e-3, 1e3
    if slope(low) > 0 or slope(high) < 0:
        return None
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def jsonable_object(value: dict[str, Any]) -> dict[str, Any]:
    """An object in which numbers that JSON has no words for are null."""
    return {key: jsonable(item) for key, item in value.items()}


def jsonable(value: Any) -> Any:
    """A value in which numbers that JSON has no words for are null."""
    if isinstance(value, dict):
        return jsonable_object(value)
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
