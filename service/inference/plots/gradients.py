"""How much of the loss reached each layer, and of a recurrent network each step of the sequence, in the course of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from service.inference.plots.canvas import BLUE, INK, ORANGE, WIDTH, label, picture
from service.inference.plots.curves import logarithmic

COLORS = {"first": BLUE, "early": INK, "best": ORANGE}
MOST_NAMES = 8
"""Layers whose names are written; more are numbered."""


def gradients(found: Mapping[str, Any], members: int) -> bytes:
    """The report's `gradients`: norms by layer, and below of the first recurrent layer by time step."""
    over_time: tuple[str, Mapping[str, Sequence[float | None]]] | None = next(iter(found["over_time"].items()), None)

    def draw(figure: Figure) -> None:
        top, *below = figure.subplots(1 if over_time is None else 2, 1, squeeze=False)[:, 0]
        names = list(found["layers"])
        norms(top, {said(moment, found["steps"]): [found["layers"][name][moment] for name in names] for moment in COLORS}, names)
        top.set_title("Gradient norm by layer" + (f", mean of {members} members" if members > 1 else ""))
        if top.lines:
            top.legend(loc="best")
        if over_time is not None:
            name, steps = over_time
            lines(below[0], {said(moment, found["steps"]): steps[moment] for moment in COLORS}, found["time_steps"])
            below[0].set(xlabel="time step", ylabel="norm, mean of rows")
            below[0].set_title(f"Gradient norm by time step, of what {label(name)} reads")

    return picture(draw, width=WIDTH, height=3.0 if over_time is None else 5.4)


def said(moment: str, steps: Mapping[str, float | None]) -> str:
    """A moment with the steps before it."""
    return f"{moment}, step {steps[moment]:.0f}" if steps[moment] is not None else moment


def norms(axes: Axes, values: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> None:
    """Lines over layers in forward order, which are named where there is room."""
    lines(axes, values, range(len(names)))
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), [label(name, 80 // len(names)) for name in names])
    else:
        axes.set_xlabel(f"layer, from {label(names[0])} to {label(names[-1], 24)}")
    axes.set_ylabel("norm")


def lines(axes: Axes, values: Mapping[str, Sequence[float | None] | None], places: Sequence[int]) -> None:
    """A line for each moment that there is, on a logarithmic axis; what is 0 or unknown is a gap."""
    for (name, line), color in zip(values.items(), COLORS.values(), strict=True):
        numbers = np.array(line if line is not None else [], dtype=np.float64)
        known = np.where(numbers > 0, numbers, np.nan)
        if np.isfinite(known).any():
            mark = "o" if len(known) <= 3 * MOST_NAMES else ""
            axes.plot(places, known, color=color, marker=mark, markersize=3.5, linewidth=1.4, label=name, gid=name.partition(",")[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    logarithmic(axes)
