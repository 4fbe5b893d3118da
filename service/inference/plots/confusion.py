"""The confusion matrix: which classes are taken for which."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.inference.plots.canvas import BLUE, INK, label, picture

COUNTED = 20
"""Most classes whose cells hold their counts."""
STRONG = 0.35
"""Share from which a cell is dark enough for white digits."""
DEEP, WHITE = "#2468ab", "#ffffff"
Floats = NDArray[np.float64]


def confusion_matrix(found: Mapping[str, Any]) -> bytes:
    """Counts of rows by true and predicted class, coloured by the share of the true class's rows."""
    counts = np.array(found["matrix"], dtype=np.int64)
    names = [label(name, 14) for name in found["classes"]]
    target, counted = label(found["target"]), len(names) <= COUNTED
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(_cells(DEEP, opacity(shares)) if counted else _cells(BLUE, tint(shares)), interpolation="none")
        _ticks(axes, names)
        axes.set(xlabel=f"predicted {target}", ylabel=f"true {target}")
        axes.set_title(f"{np.trace(counts)} of {counts.sum()} test rows right")
        if counted:
            _write_counts(axes, counts, shares)
        else:
            _scale(axes)

    side = 1.4 + 0.34 * min(max(len(names), 7), 17)
    return picture(draw, width=side, height=side * (1.0 if counted else 0.85))


def opacity(shares: Floats) -> Floats:
    """How opaque the blue of cells with digits is.

    The page shines through, be it white or black, and no digits could be read on a blue half shone through: up to
    `STRONG` it is a hint under grey digits, from there on nearly solid under white ones.
    """
    weak, strong = 0.12 + 0.1 * shares / STRONG, 0.8 + 0.2 * (shares - STRONG) / (1 - STRONG)
    return np.where(shares == 0, 0.0, np.where(shares < STRONG, weak, strong))


def tint(shares: Floats) -> Floats:
    """How opaque the blue of cells without digits is: any row shows."""
    return np.where(shares == 0, 0.0, 0.08 + 0.92 * shares)


def _cells(color: str, alpha: Floats) -> Floats:
    """An image [C, C, 4] of one colour."""
    return np.concatenate([np.broadcast_to(to_rgb(color), (*alpha.shape, 3)), alpha[..., None]], axis=-1)


def _ticks(axes: Axes, names: Sequence[str]) -> None:
    """Class names along both axes: all of them, or about twenty."""
    places = range(0, len(names), -(-len(names) // COUNTED))
    shown = [names[place] for place in places]
    axes.set_xticks(places, shown, rotation=90 if max(map(len, shown)) > 2 else 0)
    axes.set_yticks(places, shown)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: Floats) -> None:
    """The counts in their cells, sized for the longest of them."""
    size = min(9.0, 520.0 / (max(len(counts), 17) * len(str(counts.max()))))
    for (row, column), count in np.ndenumerate(counts):
        color = WHITE if shares[row, column] >= STRONG else INK
        weight, alpha = ("bold", None) if count else ("normal", 0.5)
        axes.text(column, row, str(count), color=color, size=size, weight=weight, alpha=alpha, ha="center", va="center")


def _scale(axes: Axes) -> None:
    """What the colours mean, beside the matrix."""
    bar = axes.inset_axes((1.04, 0.0, 0.04, 1.0))
    bar.imshow(_cells(BLUE, tint(np.linspace(0, 1, 64)[:, None])), interpolation="none", origin="lower", aspect="auto", extent=(0, 1, 0, 1))
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set(xticks=[], ylabel="share of the true class")
    bar.grid(visible=False)
    bar.spines[:].set_visible(False)
