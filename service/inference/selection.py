"""Members chosen by what they do for the average on validation, and weighed by how often they were.

Caruana et al. 2004, "Ensemble selection from libraries of models": forward selection with replacement, from the empty ensemble.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.inference.measuring import Inquiry
from service.inference.metrics import TINY
from service.inference.model import Model
from service.inference.pools import Answer, Classes
from service.tricks.modes import Asking
from service.tricks.multitask import Target, mean_loss, total
from service.tricks.reconstruction import deviation, divisor

Floats = NDArray[np.float64]
Loss = Callable[[Floats], float]
EVERYONE = Asking(members="all", weights="equal")
MOST_STEPS = 100
"""Members that are added at most, each as often as it is added."""
ROUNDING = 1e-12
"""Share of the loss by which it has to fall; less is what sums round to."""


class Step(NamedTuple):
    """A member that was added, by its place in the model, and the average's loss with it."""

    member: int
    loss: float


class Library(NamedTuple):
    """What members say [M, E], such that the average of some of them is the mean of theirs, and the loss of an average [E]."""

    said: Floats
    loss: Loss


def greedy(library: Library, *, most: int = MOST_STEPS, beat: Callable[[], None] = lambda: None) -> tuple[Step, ...]:
    """The members added, one at a time, each the one with which the average's loss is lowest, the first of equals.

    It ends when nobody lowers the loss, or after `most`; nobody is added where the loss is not defined.
    """
    total, steps = np.zeros(library.said.shape[1]), list[Step]()
    while len(steps) < most:
        beat()
        found = [library.loss((total + own) / (len(steps) + 1)) for own in library.said]
        best = Step(*min(enumerate(found), key=lambda each: each[1] if math.isfinite(each[1]) else math.inf))
        if not math.isfinite(best.loss) or (steps and best.loss >= steps[-1].loss - ROUNDING * abs(steps[-1].loss)):
            break
        total += library.said[best.member]
        steps.append(best)
    return tuple(steps)


def weights_of(steps: Sequence[Step], size: int) -> tuple[float, ...]:
    """Each member's share of the steps."""
    counts = np.bincount([step.member for step in steps], minlength=size)
    return tuple((counts / counts.sum()).tolist())


def library_of(inquiry: Inquiry) -> Library:
    """The members on validation, with the weighted sum of the targets' losses."""
    rows = inquiry.parts["validation"]
    answers = inquiry.answers("validation", EVERYONE.axes(inquiry.model))
    parts = [_of_target(inquiry, target, answers[target.name], rows) for target in inquiry.material.targets]
    ends = np.cumsum([part.said.shape[1] for part in parts])[:-1]

    def loss(average: Floats) -> float:
        found = zip(inquiry.targets, parts, np.split(average, ends), strict=True)
        return total(inquiry.targets, {target.name: part.loss(own) for target, part, own in found}, inquiry.model.log_variances)

    return Library(np.concatenate([part.said for part in parts], axis=1), loss)


def _of_target(inquiry: Inquiry, target: Target, answer: Answer, rows: NDArray[np.int64]) -> Library:
    """One target's part: of classes probabilities; of numbers each error in the loss's unit, and the second moment around the truth."""
    if isinstance(answer, Classes):
        if answer.members is None:
            raise TypeError("what several members say is kept")
        return _of_classes(inquiry.material.labels[target.name][torch.from_numpy(rows)], target, answer.members)
    members = answer.members
    if members is None or members.mean is None:
        raise TypeError("what several members say is kept")
    scale = inquiry.material.scales[[each.name for each in inquiry.targets].index(target.name)]
    truth, std = torch.from_numpy(inquiry.material.truth(target, rows)), scale.std.double()
    known = ~truth.isnan().any(dim=1)
    unit = torch.ones_like(std) if target.loss == "mse_original" else divisor(std)
    if members.quantiles is not None:
        said = (members.quantiles.double() - truth.unsqueeze(-1)) / unit.unsqueeze(-1)
        return Library(said[:, known].flatten(1).numpy(), partial(_loss, target, len(std)))
    errors = (deviation(members.mean.double(), truth, std) / unit)[:, known].flatten(1).numpy()
    if target.loss != "gaussian_nll" or members.variance is None:
        return Library(errors, partial(_loss, target, len(std)))
    variances = (members.variance.double() / unit**2)[:, known].flatten(1).numpy()
    return Library(np.concatenate([errors, errors**2 + variances], axis=1), _surprise)


def _loss(target: Target, width: int, deviations: Floats) -> float:
    """The mean loss of answers that deviate by so much from their labels, of `width` numbers a row; NaN without any."""
    raw = torch.from_numpy(deviations).view(-1, width * len(target.quantiles or (0,)))
    return float(target.losses(raw, torch.zeros(len(raw), width, dtype=raw.dtype)).mean()) if len(raw) else math.nan


def _of_classes(labels: Tensor, target: Target, members: Tensor) -> Library:
    """Of one class a row its probability alone, where the loss is its likelihood; else all of them."""
    known = ~target.missing(labels)
    if target.calibrates and target.plain:
        return Library(members.numpy()[:, known.numpy(), labels[known].numpy()], _unlikeliness)
    truth = labels[known]

    def loss(average: Floats) -> float:
        logs = torch.from_numpy(np.log(np.maximum(average, TINY))).view(len(truth), -1)
        return float(mean_loss(target, logs, truth)) if len(truth) else math.nan

    return Library(members.numpy()[:, known.numpy()].reshape(len(members), -1), loss)


def _unlikeliness(labelled: Floats) -> float:
    """Mean -log of the labels' probabilities; NaN without any."""
    return float(-np.log(np.maximum(labelled, TINY)).mean()) if len(labelled) else math.nan


def _surprise(moments: Floats) -> float:
    """Mean -log of the Gaussian density with the mixture's mean and variance, from its first two moments around the truth."""
    error, second = np.split(moments, 2)
    variance = second - error**2
    return float(0.5 * (np.log(2 * math.pi * variance) + error**2 / variance).mean()) if len(error) else math.nan


def select(inquiry: Inquiry) -> tuple[Model, tuple[Step, ...]]:
    """The model with the weights that selection gives, and how it came to them; as it was where its spec selects nobody."""
    model = inquiry.model
    if model.spec.ensemble.selection is None or model.size == 1 or "validation" not in inquiry.parts:
        return model, ()
    steps = greedy(library_of(inquiry), beat=inquiry.beat)
    return (replace(model, weights=weights_of(steps, model.size)) if steps else model), steps


def report(inquiry: Inquiry, steps: Sequence[Step]) -> dict[str, Any] | None:
    """Who was added when, the weights, and metrics of all members alike beside those of the chosen; null where nobody was."""
    model = inquiry.model
    if not steps or model.weights is None:
        return None
    equal, chosen = EVERYONE.axes(model), Asking(members="all").axes(model)
    parts = {
        part: {"before": inquiry.measure(part, equal), "after": inquiry.measure(part, chosen)} if part in inquiry.parts else None
        for part in ("validation", "test")
    }
    numbers = model.numbers or range(model.size)
    return {"weights": list(model.weights), "steps": [{"member": numbers[i], "loss": loss} for i, loss in steps], **parts}
