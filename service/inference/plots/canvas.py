"""The look of all pictures, readable on white and on black, and their bytes: equal inputs give equal ones."""

import io
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

INK = "#747b86"
"""Text and axes: 4.2:1 and more on white and on near black."""
BLUE, ORANGE = "#2f7fc1", "#d4711f"
"""Told apart by colour-blind readers too."""
WIDTH = 5.0
"""Inches, so that letters stay readable where a telephone shows the picture at three quarters of its size."""
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.0,
    "figure.facecolor": "none",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.5,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "temper",
    "text.color": INK,
    # A class may be called $x$.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def picture(draw: Callable[[Figure], None], *, height: float, width: float = WIDTH) -> bytes:
    """The SVG of what `draw` puts on a figure of that size in inches; nothing of the machine, its settings or the time is in it."""
    buffer = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # The reader's fonts draw the letters; that ours lack some only makes their width a guess.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=(width, height))
        draw(figure)
        # By hand: a figure that owns a layout engine is laid out and drawn twice, which is most of what publishing a small model costs.
        ConstrainedLayoutEngine().execute(figure)
        _settle(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _settle(figure: Figure) -> None:
    """Round where things stand: the layout's last bits are others in each run, and clip paths are named by them."""
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(9))
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 9))


def label(text: str, most: int = 16) -> str:
    """A user's text in at most so many characters, without those that XML has no room for."""
    shown = "".join("\ufffd" if unicodedata.category(mark) in ("Cc", "Cs", "Cn") else mark for mark in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def thin(values: NDArray[np.float64], most: int = 1000) -> NDArray[np.int64]:
    """Places of at most `most` values: the first, the last, and of each stretch its minimum and its maximum."""
    if len(values) <= most:
        return np.arange(len(values))
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(1, len(values) - 1), (most - 2) // 2):
        known = stretch[np.isfinite(values[stretch])]
        # A stretch without numbers keeps one place, so that the line shows the gap.
        kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])} if len(known) else {int(stretch[0])}
    return np.array(sorted(kept))


def diagonal(axes: Axes, name: str) -> None:
    """The line on which what is said is what happens."""
    axes.plot([0, 1], [0, 1], color=INK, linestyle=(0, (4, 3)), linewidth=1.0, label=name, gid="diagonal")


def unit_square(axes: Axes, ticks: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1)) -> None:
    """Both axes from 0 to 1."""
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks)


def bare(axes: Axes) -> None:
    """No ticks, no grid, no frame: what is drawn is an image."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
