"""A reconstruction's error as a score of anomaly: thresholds with a wished rate of false alarms, from errors on validation rows.

Split conformal prediction with the error as its score: of n + 1 errors of rows that are alike the last is as likely to be of any rank,
so that a fresh row is above the k-th smallest of the n others with probability at most (n + 1 - k) / (n + 1) (Vovk et al. 2005,
"Algorithmic learning in a random world"; Laxhammar and Falkman 2010 for anomalies).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import blocks
from service.errors import ModeUnavailable, invalid
from service.inference.asking import network_weights
from service.inference.measuring import Inquiry
from service.inference.model import Model
from service.inference.pools import Numbers
from service.tricks.modes import Asking, Axes
from service.tricks.multitask import Target
from service.tricks.reconstruction import errors

MOST_ERRORS = 10_000
"""Errors that are kept with a model; of more validation rows as many, evenly spaced."""
RATE = 0.05
"""The rate of false alarms where none is wished."""


def kept_errors(inquiry: Inquiry, target: Target) -> tuple[float, ...] | None:
    """Validation rows' errors, as the model answers by default, ascending; None where it was trained on those rows or overflows."""
    if inquiry.model.spec.trains_on_validation or "validation" not in inquiry.parts:
        return None
    found = part_errors(inquiry, target, "validation")
    if not np.isfinite(found).all():
        return None
    return tuple(np.sort(found[:: math.ceil(len(found) / MOST_ERRORS)]).tolist())


def part_errors(inquiry: Inquiry, target: Target, part: str) -> NDArray[np.float64]:
    """Squared errors [N] of a part's rows in the inputs' own unit, means over entries."""
    rows, answer = inquiry.parts[part], inquiry.answers(part, Asking().axes(inquiry.model))[target.name]
    if not isinstance(answer, Numbers):
        raise TypeError("a reconstruction is numbers")
    std = inquiry.model.networks[0].units[inquiry.targets.index(target)].std.double()
    found = []
    for block in blocks(np.arange(len(rows)), 16 * len(std)):  # rows may be large
        truth = torch.from_numpy(inquiry.material.truth(target, rows[block]))
        found.append(errors(answer.mean[torch.from_numpy(block)], truth, std)[1])
    return torch.cat(found).numpy()


def threshold(kept: Sequence[float], rate: float) -> float | None:
    """The smallest of the kept errors that a row like them exceeds with at most that probability; None where they are too few."""
    alarms = min(math.floor((len(kept) + 1) * rate + 1e-9), len(kept))
    return kept[len(kept) - alarms] if alarms else None


def anomalies(model: Model, target: Target, axes: Axes, scores: Tensor, rate: float) -> dict[str, Any]:
    """Which rows, of errors [N], are anomalous at a rate of false alarms; raises ModeUnavailable, and Invalid for too low a rate."""
    settled = model.settled.get(target.name)
    kept = settled.errors if settled is not None else None
    if kept is None:
        raise ModeUnavailable("The model has no errors of validation rows, which thresholds are taken from.")
    if not _by_default(model, axes):
        raise ModeUnavailable("Thresholds are those of the model's default mode; ask in it.")
    limit = threshold(kept, rate)
    if limit is None:
        message = f"{len(kept)} validation rows tell rates from {1 / (len(kept) + 1):.3g} on"
        raise invalid("/false_alarm_rate", "value-out-of-range", message)
    return {
        "anomalous": (scores > limit).tolist(),
        "threshold": limit,
        "false_alarm_rate": rate,
        "validation_rows": len(kept),
    }


def _by_default(model: Model, axes: Axes) -> bool:
    """Whether it is the model's default predictor that is asked."""
    usual = Asking().axes(model)
    if (axes.members, axes.dropout) != (usual.members, usual.dropout):
        return False
    mine, theirs = (network_weights(each, len(each.members)).flatten() for each in (axes, usual))
    return torch.equal(mine, theirs)


def measured(inquiry: Inquiry) -> dict[str, Any] | None:
    """The threshold at the usual rate, and the share of test rows above it; null without one."""
    target = next((target for target in inquiry.targets if target.from_inputs), None)
    settled = inquiry.model.settled.get(target.name) if target is not None else None
    limit = threshold(settled.errors, RATE) if settled is not None and settled.errors else None
    if target is None or limit is None:
        return None
    share = float((part_errors(inquiry, target, "test") > limit).mean()) if "test" in inquiry.parts else None
    return {"false_alarm_rate": RATE, "threshold": limit, "test": share}
