"""Whether a model knows how sure it may be: reliability of probabilities, coverage of intervals."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.inference.metrics import expected_calibration_error
from service.inference.plots.canvas import BLUE, INK, ORANGE, diagonal, picture, unit_square

BINS = 15
LEVELS = np.linspace(0.05, 0.95, 19)
Floats = NDArray[np.float64]


def reliability(probabilities: Floats, labels: NDArray[np.int64]) -> bytes | None:
    """The reliability diagram of probabilities [N, C] (Guo et al. 2017, figure 1) with rows per bin; None where no label is known."""
    known = labels >= 0
    if not known.any():
        return None
    confidence = probabilities[known].max(axis=1)
    correct = probabilities[known].argmax(axis=1) == labels[known]
    # Bins are closed on the right, as in the metric.
    places = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    error = expected_calibration_error(confidence, correct, BINS)

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _bins(upper, places, confidence, correct)
        unit_square(upper)
        upper.set_ylabel("accuracy")
        upper.set_title(f"Reliability · ECE {error:.4f} · {len(confidence)} rows")
        _counts(lower, counts)

    return picture(draw, height=4.6)


def _bins(axes: Axes, places: NDArray[np.int64], confidence: Floats, correct: NDArray[np.bool_]) -> None:
    """Each bin's accuracy as a bar, and its distance from the mean confidence."""
    diagonal(axes, "calibrated")
    held = np.unique(places)
    accuracy = np.array([correct[places == place].mean() for place in held])
    mean = np.array([confidence[places == place].mean() for place in held])
    bars = axes.bar((held + 0.5) / BINS, accuracy, width=0.92 / BINS, color=BLUE, alpha=0.45, label="accuracy")
    for place, bar in zip(held, bars, strict=True):
        bar.set_gid(f"bin-{place}")
    axes.vlines(mean, accuracy, mean, color=ORANGE, linewidth=1.6, label="gap")
    axes.plot(mean, accuracy, "o", color=BLUE, markersize=3.5, clip_on=False)
    axes.legend(loc="upper left")


def _counts(axes: Axes, counts: NDArray[np.int64]) -> None:
    """Rows per bin, written above their bars."""
    bars = axes.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.92 / BINS, color=INK, alpha=0.45)
    size = min(8.0, 32.0 / len(str(counts.max())))
    axes.bar_label(bars, labels=[str(count) if count else "" for count in counts], size=size, padding=1)
    axes.margins(y=0.3)
    axes.grid(visible=False)
    axes.set(xlabel="confidence", ylabel="rows", yticks=[])


def coverage(mean: Floats, std: Floats | None, truth: Floats) -> bytes | None:
    """Observed coverage of central Gaussian intervals against their level, for [N, D] each; None where no spread or no truth is known."""
    if std is None:
        return None
    known = ~np.isnan(truth).any(axis=1)
    rows = int(known.sum())
    if not rows:
        return None
    distance = np.abs(truth[known] - mean[known])
    reach = np.array([NormalDist().inv_cdf(0.5 + level / 2) for level in LEVELS])
    observed = np.array([(distance <= own * std[known]).mean() for own in reach])  # level by level: rows may be large
    title = f"Coverage · 90 % intervals hold {observed[-2]:.0%} of {rows} rows"
    return _against(LEVELS, observed, rows, title, ("level of the interval", "share of rows inside"))


def quantile_coverage(said: Floats, shares: Sequence[float], truth: Floats) -> bytes | None:
    """The share of rows at or below each answered quantile [N, D, Q], over all D, against its own; None where no truth is known."""
    known = ~np.isnan(truth).any(axis=1)
    rows = int(known.sum())
    if not rows:
        return None
    observed = np.array([(truth[known] <= said[known][..., place]).mean() for place in range(len(shares))])
    furthest = int(np.abs(observed - shares).argmax())
    title = f"Coverage · at or below the {shares[furthest]:g} quantile lie {observed[furthest]:.0%} of {rows} rows"
    return _against(np.array(shares), observed, rows, title, ("quantile", "share of rows at or below"))


def _against(levels: Floats, observed: Floats, rows: int, title: str, labels: tuple[str, str]) -> bytes:
    """Shares of so many rows against those that were meant, with what chance does to them."""
    every = np.linspace(0, 1, 101)
    chance = 1.96 * np.sqrt(every * (1 - every) / rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.fill_between(every, every - chance, every + chance, color=INK, alpha=0.2, linewidth=0, label="chance, 95 %")
        diagonal(axes, "calibrated")
        axes.plot(levels, observed, "o-", color=BLUE, markersize=3.5, linewidth=1.6, label="observed", gid="observed")
        unit_square(axes)
        axes.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")
        axes.set_title(title)
        axes.legend(loc="upper left")

    return picture(draw, height=4.2)
