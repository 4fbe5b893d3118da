"""How probabilities become a class: the most probable one, the second of two from a threshold on, or the least costly one.

Elkan 2001, "The foundations of cost-sensitive learning".
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from service.errors import Flaw
from service.tricks.choices import AtMost, refuse
from service.values import ITEMS, Value

Floats = NDArray[np.float64]
MOST_COSTS = 1000


class Threshold(Value):
    """Of two classes the second, where its probability is at least this."""

    threshold: Annotated[float, Field(ge=0, le=1)] | Literal["validation"]
    """The least probability; "validation": the one with the best balanced accuracy on validation."""


class Costs(Value):
    """The class with the lowest expected cost."""

    costs: Annotated[
        tuple[Annotated[tuple[Annotated[float, Field(ge=-1e9, le=1e9)], ...], ITEMS, AtMost(MOST_COSTS)], ...], ITEMS, AtMost(MOST_COSTS)
    ]
    """What it costs to say a class (columns) where another is true (rows), in the order of the classes."""


Rule = Threshold | Costs | Literal["argmax"]
"""How a class is chosen."""


def _read(value: Any) -> Any:
    """A decision from JSON: told apart by what it has."""
    if value == "argmax" or isinstance(value, Threshold | Costs):
        return value
    if isinstance(value, dict) and len(value) == 1 and "threshold" in value:
        if value["threshold"] != "validation" and not isinstance(value["threshold"], int | float):
            raise refuse("wrong-type", 'a threshold is a number or "validation"', pointer="/threshold")
        return Threshold.model_validate(value)
    if isinstance(value, dict) and len(value) == 1 and "costs" in value:
        return Costs.model_validate(value)
    raise refuse("unknown-choice", 'a decision is "argmax", {"threshold": …} or {"costs": …}')


Decision = Annotated[Rule, BeforeValidator(_read)]


def decision_flaws(decision: Rule, classes: int) -> Iterator[Flaw]:
    """What keeps a decision from being one among so many classes; pointers are within the target."""
    if isinstance(decision, Threshold) and classes != 2:
        yield Flaw("/decision/threshold", "inconsistent-spec", f"a threshold tells two classes apart; there are {classes}")
    if isinstance(decision, Costs) and (len(decision.costs) != classes or any(len(row) != classes for row in decision.costs)):
        yield Flaw("/decision/costs", "shape-mismatch", f"costs are a row of {classes} numbers for each of {classes} classes")


def decide(probabilities: Tensor, decision: Rule) -> Tensor:
    """Class indices [..] of probabilities [.., C]; ties go to the earlier class, a probability at the threshold to the second."""
    if isinstance(decision, Threshold) and decision.threshold != "validation":
        return (probabilities[..., 1] >= decision.threshold).long()
    if isinstance(decision, Costs):
        return (probabilities @ torch.tensor(decision.costs, dtype=probabilities.dtype)).argmin(-1)
    return probabilities.argmax(-1)


def best_threshold(second: Floats, labels: NDArray[np.int64]) -> float | None:
    """The threshold on the second class's probability [N] with the best balanced accuracy (Youden 1950), of equals the nearest to 1/2.

    Thresholds lie midway between neighbouring probabilities; None without rows of both classes.
    """
    ups, downs = int((labels == 1).sum()), int((labels == 0).sum())
    if not ups or not downs:
        return None
    values, codes = np.unique(second, return_inverse=True)
    # From each value on the second class is said; before the first it always is.
    hits = np.bincount(codes[labels == 1], minlength=len(values))
    alarms = np.bincount(codes[labels == 0], minlength=len(values))
    true = np.append(np.cumsum(hits[::-1])[::-1], 0)
    false = np.append(np.cumsum(alarms[::-1])[::-1], 0)
    # In whole numbers, so that equals are equal.
    gains = true * downs - false * ups
    # What lies midway between neighbours that have no number between them may be the lower one.
    between = np.maximum((values[1:] + values[:-1]) / 2, np.nextafter(values[:-1], 2))
    places = np.concatenate([[0.0], between, [1.0]])
    # A threshold of 1 is met by a probability of 1: never saying the second class is none of the choices then.
    gains = gains[:-1] if values[-1] >= 1 else gains
    best = np.flatnonzero(gains == gains.max())
    return float(places[best[np.abs(places[best] - 0.5).argmin()]])
