"""The report's `dropout`: weight scaling beside the means over masks, how far they lie apart, and how soon sampling gets there."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.convergence import SIZES, running_errors
from service.inference.decomposition import answer_errors, member_errors, member_squares, variance_decomposition
from service.inference.masks import dropped_sites
from service.inference.measuring import Answers, Inquiry, asked, center
from service.seeds import derive
from service.tricks.dropout import disconnected
from service.tricks.modes import Asking, Axes
from service.tricks.multitask import Target

ABSENT = ("geometric", "exact", "exact_geometric")
"""Averages that not every network has."""
MASKS = SIZES[-1]
MOST_ROWS, MOST_ENTRIES, MOST_WORK = 2_000, 5_000_000, 100_000_000_000
"""Of the way to the limit: test rows, kept numbers (rows, masks and outputs), and multiplications."""


def dropout(inquiry: Inquiry) -> dict[str, Any] | None:
    """All of it for the best member and the first target on test; null for a network without dropout.

    `arithmetic` and `geometric` are of 50 masks, `exact` and `exact_geometric` of all of them, where they can be enumerated. A
    gap is the mean absolute difference of two answers, in probability or in the target's unit.
    """
    best = inquiry.model.networks[inquiry.model.best]
    if not dropped_sites(best.sites) or "test" not in inquiry.parts:
        return None
    points = averages(inquiry)
    metrics = {name: inquiry.measure("test", axes) for name, axes in points.items()}
    gaps = _gaps(inquiry, points)
    return {
        **dict.fromkeys(ABSENT),
        **metrics,
        "gap": next(pair["gap"] for pair in gaps if pair["between"] == ["weight_scaled", "arithmetic"]),
        "gaps": gaps,
        "convergence": _convergence(inquiry, points),
        "disconnected": cut_off(inquiry),
    }


def cut_off(inquiry: Inquiry) -> float | None:
    """The share of masks without a path from input to output; null with shortcuts, which the formula has no room for."""
    architecture = inquiry.model.spec.architecture
    closed = architecture.dense and not architecture.bridged
    return disconnected(inquiry.model.networks[inquiry.model.best].sites) if closed else None


def averages(inquiry: Inquiry) -> dict[str, Axes]:
    """The points on the axes at which the first target is compared, by name; only probabilities have a geometric mean."""
    points = {"weight_scaled": Asking(members="best").axes(inquiry.model), "arithmetic": Asking(mode="monte_carlo").axes(inquiry.model)}
    exact = inquiry.point("exact")
    if exact is not None:
        points["exact"] = exact
    if inquiry.targets[0].says == "classes":
        points["geometric"] = points["arithmetic"]._replace(combine="geometric")
        points |= {"exact_geometric": exact._replace(combine="geometric")} if exact is not None else {}
    return points


def _gaps(inquiry: Inquiry, points: dict[str, Axes]) -> list[dict[str, Any]]:
    """The mean absolute difference of any two averages."""
    name = inquiry.targets[0].name
    said = {point: center(inquiry.answers("test", axes)[name]) for point, axes in points.items()}
    return [{"between": [a, b], "gap": float((said[a] - said[b]).abs().mean())} for a, b in itertools.combinations(said, 2)]


def _convergence(inquiry: Inquiry, points: dict[str, Axes]) -> dict[str, Any] | None:
    """The error by the number of masks, beside that of the other averages on the same rows; null where none of these has a label."""
    target, places = inquiry.targets[0], _places(inquiry)
    rows = inquiry.parts["test"][places]
    axes = points["arithmetic"]._replace(samples=MASKS)
    answer = asked(inquiry.model, inquiry.material, rows, axes, keep=True, beat=inquiry.beat)[target.name]
    found = member_errors(answer, target, inquiry.material, rows)
    if found is None or not found[1].shape[1]:
        return None
    name, errors = found
    others = {
        point: _error(inquiry.answers("test", axes), target, inquiry, places) for point, axes in points.items() if point != "arithmetic"
    }
    return {
        "target": target.name,
        "error": name,
        "rows": errors.shape[1],
        "masks": len(errors),
        # Of infinitely many masks, as far as these can say: v / S + (S - 1) c / S falls to c.
        "limit": variance_decomposition(errors)["c"],
        **dict.fromkeys(ABSENT),
        **others,
        "by_samples": running_errors(errors),
    }


def _error(answers: Answers, target: Target, inquiry: Inquiry, places: NDArray[np.int64]) -> float:
    """The error of an answer on those of the test rows that have a label."""
    answer, test = answers[target.name], inquiry.parts["test"]
    squares = member_squares(answer_errors(answer, target, inquiry.material, test))[0]
    known = ~target.missing(inquiry.material.labels[target.name][test]).numpy()
    chosen = np.zeros(len(test), dtype=bool)
    chosen[places] = True
    return float(squares[chosen[known]].mean())


def _places(inquiry: Inquiry) -> NDArray[np.int64]:
    """Places among the test rows that the way to the limit is looked at on: random ones where there are too many."""
    network, test = inquiry.model.networks[0], inquiry.parts["test"]
    weights = sum(parameter.numel() for parameter in network.parameters())
    most = min(MOST_ROWS, MOST_ENTRIES // (MASKS * network.spec.widths[0]), MOST_WORK // (MASKS * weights))
    if len(test) <= most:
        return np.arange(len(test))
    stream = np.random.default_rng(derive(inquiry.model.spec.seed, 0, "convergence"))
    return np.sort(stream.permutation(len(test))[: max(1, most)])
