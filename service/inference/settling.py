"""What is taken from validation rows once the weights are there: the threshold of a decision, the noise of observations, errors."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from service.inference.alarms import kept_errors
from service.inference.measuring import Inquiry
from service.inference.model import Model, Settled
from service.inference.pools import Answer, Classes, Numbers
from service.tricks.decisions import Threshold, best_threshold
from service.tricks.modes import Asking
from service.tricks.multitask import Target

Floats = NDArray[np.float64]


def settle(inquiry: Inquiry) -> Model:
    """The model with what its targets leave to validation, by the answers it gives by default; as it was where nothing is left."""
    asked = [target for target in inquiry.targets if _open(target)]
    if not asked or "validation" not in inquiry.parts:
        return inquiry.model
    answers = inquiry.answers("validation", Asking().axes(inquiry.model))
    found = {target.name: _settled(inquiry, target, answers[target.name]) for target in asked}
    return replace(inquiry.model, settled=found)


def _open(target: Target) -> bool:
    waits = isinstance(target.decision, Threshold) and target.decision.threshold == "validation"
    return waits or target.noise_std == "validation" or target.from_inputs


def _settled(inquiry: Inquiry, target: Target, answer: Answer) -> Settled:
    rows = inquiry.parts["validation"]
    if target.from_inputs:
        return Settled(errors=kept_errors(inquiry, target))
    if isinstance(answer, Classes):
        labels = inquiry.material.labels[target.name][torch.from_numpy(rows)].numpy()
        known = labels >= 0
        return Settled(threshold=best_threshold(answer.probabilities.numpy()[known, 1], labels[known]))
    return Settled(noise_std=_noise(answer, inquiry.material.originals[target.name][rows]))


def _noise(answer: Numbers, truth: Floats) -> tuple[float, ...] | None:
    """Of each number the noise that makes the labels most likely, beside the spread of the networks; None without labels."""
    known = ~np.isnan(truth).any(axis=1)
    if not known.any():
        return None
    squares = (answer.mean.numpy()[known] - truth[known]) ** 2
    spread = answer.epistemic.numpy()[known] if answer.epistemic is not None else np.zeros_like(squares)
    return tuple(likeliest_noise(squares[:, i], spread[:, i]) for i in range(squares.shape[1]))


def likeliest_noise(squares: Floats, spread: Floats) -> float:
    """The s with the highest likelihood of squared errors [N] under Gaussians of variance s^2 + spread [N].

    Without spread it is the root of their mean. The bounds are that root and a thousandth of it.
    """
    root = max(float(np.sqrt(squares.mean())), 1e-30)
    if not spread.any():
        return root

    def surprise(log_s: float) -> float:
        variance = np.exp(2 * log_s) + spread
        return float((np.log(variance) + squares / variance).mean())

    found = minimize_scalar(surprise, bounds=(np.log(root) - np.log(1000), np.log(root)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
