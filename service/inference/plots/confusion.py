"""The confusion matrix: which classes are taken for which."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.inference.plots.canvas import INK, label, picture

COUNTED = 20
"""Most classes whose cells hold their counts."""
SHARES = LinearSegmentedColormap.from_list("shares", ["#dfe8f2", "#2a6db3"], N=64)
DARK, LIGHT = "#0b0f14", "#ffffff"


def confusion_matrix(found: Mapping[str, Any]) -> bytes:
    """Counts of rows by true and predicted class, coloured by the share of the true class's rows; empty cells are left clear."""
    counts = np.array(found["matrix"], dtype=np.int64)
    names = [label(name, 14) for name in found["classes"]]
    # Clear cells show the page, so that the picture is at home on white and on black.
    shares = np.ma.masked_equal(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), 0.0)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap=SHARES, vmin=0.0, vmax=1.0, interpolation="none")
        _ticks(axes, names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(f"{label(found['target'])}: {np.trace(counts)} of {counts.sum()} test rows right")
        if len(names) <= COUNTED:
            _write_counts(axes, counts, shares.filled(0.0))
        else:
            figure.colorbar(image, label="share of the true class", shrink=0.7).outline.set_visible(False)

    side = min(1.4 + 0.36 * max(len(names), 6), 1.4 + 0.3 * COUNTED)
    return picture(draw, width=side, height=side)


def _ticks(axes: Axes, names: Sequence[str]) -> None:
    """Class names along both axes: all of them, or about twenty."""
    places = range(0, len(names), -(-len(names) // COUNTED))
    shown = [names[place] for place in places]
    axes.set_xticks(places, shown, rotation=90 if max(map(len, shown)) > 2 else 0)
    axes.set_yticks(places, shown)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    """The counts in their cells, sized for the longest of them."""
    size = min(9.0, 32.0 / len(str(counts.max())))
    for (row, column), count in np.ndenumerate(counts):
        color = INK if not count else LIGHT if shares[row, column] > 0.6 else DARK
        axes.text(column, row, str(count), color=color, size=size, alpha=None if count else 0.55, ha="center", va="center")
