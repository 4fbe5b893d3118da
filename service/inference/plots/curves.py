"""Learning curves: what every member's loss did while it trained, and which of its epochs was kept."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from service.inference.plots.canvas import BLUE, INK, ORANGE, WIDTH, label, picture, thin
from service.spec import TrainSpec
from service.tricks.stopping import SECOND

Histories = Mapping[int, Mapping[str, Sequence[float | None]]]
"""Member -> series -> a value per epoch, the first being epoch 1."""
Floats = NDArray[np.float64]
MOST_POINTS = 20_000
"""Points of all faint lines together; an ensemble's lines are thinned further than a single one's."""
WIDE = 20.0
"""Largest over smallest value from which a logarithmic axis shows more than a linear one."""


class Line(NamedTuple):
    """One series over all members: what it is called in the picture, its colour, and values [epochs] by member.

    `after`: by member, the epochs before the first value, of a second phase; empty in the first.
    """

    role: str
    color: str
    values: dict[int, Floats]
    after: dict[int, int]


def learning_curves(histories: Histories, spec: TrainSpec, summaries: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss on training and validation rows per epoch, a second phase with dashes, the monitor apart where it is another metric.

    Best epochs are marked, and of one member where it stopped and what loss was to end its second phase.
    """
    monitor = spec.monitored
    names = ("train.loss", "validation.loss", f"{SECOND}train.loss", f"{SECOND}validation.loss")
    panels = [("loss", _lines(histories, names))]
    if monitor is not None and monitor != "validation.loss":
        panels.append((monitor.removeprefix("validation."), _lines(histories, (monitor,))))

    def draw(figure: Figure) -> None:
        every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, lines) in zip(every, panels, strict=True):
            _panel(axes, name, lines)
        if monitor is not None:
            _mark(every[-1], summaries)
            _mark_second(every[0], summaries)
        for axes in every:
            axes.legend(loc="best")
        every[0].set_title(f"{len(histories)} members, the mean in bold" if len(histories) > 1 else "Learning curves")
        every[-1].set_xlabel("epoch")

    return picture(draw, width=WIDTH, height=1.0 + 2.2 * len(panels))


def _lines(histories: Histories, names: Sequence[str]) -> list[Line]:
    """The series that were recorded."""
    lines = []
    for name in names:
        values = {member: np.array(series[name], dtype=np.float64) for member, series in histories.items() if series.get(name)}
        if values:
            again, role = name.startswith(SECOND), name.removeprefix(SECOND).partition(".")[0]
            after = {member: len(histories[member]["train.loss"]) for member in values} if again else {}
            lines.append(Line(f"{role}, again" if again else role, BLUE if role == "train" else ORANGE, values, after))
    return lines


def _panel(axes: Axes, name: str, lines: Sequence[Line]) -> None:
    """Every member's line, and over them their mean for as long as all of them trained."""
    most = min(1000, max(100, MOST_POINTS // max(1, sum(len(line.values) for line in lines))))
    for line in lines:
        alone = len(line.values) == 1
        for member, values in line.values.items():
            bold = alone or (bool(line.after) and member == min(line.values))
            _plot(axes, values, line, thin(values, most), bold=bold, member=member)
        if not alone and not line.after:
            together = min(len(values) for values in line.values.values())
            mean = np.mean([values[:together] for values in line.values.values()], axis=0)
            _plot(axes, mean, line, thin(mean), bold=True)
    axes.set_ylabel(label(name, 32))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if name == "loss" and log_helps([values for line in lines for values in line.values.values()]):
        logarithmic(axes)


def _plot(axes: Axes, values: Floats, line: Line, places: NDArray[np.int64], *, bold: bool, member: int | None = None) -> None:
    """A member's line, or without one the mean of all."""
    axes.plot(
        places + 1 + (line.after.get(member, 0) if member is not None else 0),
        values[places],
        color=line.color,
        # Faint lines of many members must not add up to a solid one.
        alpha=1.0 if bold else max(0.15, 0.8 / len(line.values) ** 0.5),
        linewidth=1.8 if bold else 0.9,
        linestyle=(0, (3, 1.5)) if line.after else "-",
        marker="." if len(values) == 1 else "",
        label=line.role if bold else None,
        gid=f"{line.role.replace(', ', '-')}-{'mean' if member is None else f'member-{member}'}",
    )


def log_helps(series: Sequence[Floats]) -> bool:
    """Whether values are all positive and span so much that a linear axis would flatten most of them."""
    known = np.concatenate([np.ravel(values) for values in series]) if series else np.empty(0)
    known = known[np.isfinite(known)]
    return bool(len(known) and known.min() > 0 and known.max() > WIDE * known.min())


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5 of each decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark(axes: Axes, summaries: Sequence[Mapping[str, Any]]) -> None:
    """A ring at each member's best epoch, at the monitor's value there."""
    stops = [(summary["member"], summary["best_epoch"], summary["best"]) for summary in summaries if summary["best"] is not None]
    if not stops:
        return
    first, last = min(epoch for _, epoch, _ in stops), max(epoch for _, epoch, _ in stops)
    again = any(summary.get("second") is not None for summary in summaries)  # whose weights took the place of the best
    text = f"{'best' if again else 'kept'}: epoch{f' {first}' if first == last else f's {first} to {last}'}"
    if len(stops) == 1:
        axes.axvline(first, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    for i, (member, epoch, value) in enumerate(stops):
        axes.plot(
            [epoch], [value], "o", color=ORANGE, markersize=5.5, markerfacecolor="none", markeredgewidth=1.4,
            label=None if i else text, gid=f"kept-member-{member}-epoch-{epoch}",
        )  # fmt: skip


def _mark_second(axes: Axes, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Where the one member stopped, and the loss on validation rows that was to end its second phase."""
    second = summaries[0].get("second") if len(summaries) == 1 else None
    if second is None:
        return
    stopped = summaries[0]["stopped_epoch"]
    axes.axvline(stopped, color=INK, linewidth=0.8, label=f"stopped: epoch {stopped}", gid="stopped")
    if second["threshold"] is not None:
        axes.axhline(second["threshold"], color=INK, linewidth=0.8, linestyle=(0, (1, 2)), label="threshold", gid="threshold")
