"""The report's `targets`: what each counts in the objective, how its probabilities become a class, and what its noise is."""

import math
from typing import Any

from service.inference.measuring import Inquiry
from service.tricks.decisions import Rule
from service.tricks.multitask import Target


def targets(inquiry: Inquiry) -> dict[str, dict[str, Any]]:
    """By target; what a target has not is null."""
    return {target.name: _target(inquiry, target) for target in inquiry.material.targets}


def _target(inquiry: Inquiry, target: Target) -> dict[str, Any]:
    model = inquiry.model
    each = [float(network.log_variances[target.name]) for network in model.networks if target.name in network.log_variances]
    noise = model.noise(target)
    return {
        # What its mean loss is multiplied with, at the kept weights; learned ones: the geometric mean over members.
        "weight": effective(target, math.fsum(each) / len(each)) if each else target.weight,
        "members": [effective(target, own) for own in each] or None,
        "log_variance": each or None,
        "class_weights": target.class_weights,
        "decision": _decision(model.decision(target)) if target.says == "classes" else None,
        "noise_std": noise.sqrt().tolist() if noise is not None else None,
    }


def _decision(rule: Rule) -> Any:
    return rule if isinstance(rule, str) else rule.dump()


def effective(target: Target, log_variance: float) -> float:
    """1 / (2 s^2) of numbers, 1 / s^2 of classes."""
    return math.exp(-log_variance) * (0.5 if target.halves else 1.0)
