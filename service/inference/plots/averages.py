"""What averaging saves: error by number of members, and by number of dropout masks."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from service.inference.plots.canvas import BLUE, INK, ORANGE, picture

Found = Mapping[str, Any]
DASHES = {
    "weight_scaled": ("weight scaling", (0, (6, 3))),
    "geometric": ("geometric mean of 50", (0, (1, 2))),
    "exact": ("all masks", (0, (6, 2, 1, 2))),
    "exact_geometric": ("all masks, geometric", (0, (1, 1))),
}
"""How the averages that need no number of masks are named and drawn."""


def ensemble_error(found: Found) -> bytes:
    """The error of the first members by their number, over the formula's line; every member, and the best of them."""
    sizes = [row["k"] for row in found["by_size"]]
    best = found["best_member"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        each = found["member_errors"]
        axes.plot([1] * len(each), each, "o", color=INK, alpha=0.5, markersize=4, label="members", gid="members", linestyle="none")
        _level(axes, best["error"], f"best member, {best['member']}", (0, (6, 3)), "best-member")
        axes.plot(sizes, [row["predicted"] for row in found["by_size"]], color=ORANGE, label="v/k + (k - 1) c/k", gid="predicted")
        measured = [row["measured"] for row in found["by_size"]]
        marker = "o" if len(sizes) <= 40 else ""
        axes.plot(sizes, measured, color=BLUE, marker=marker, markersize=3.5, linewidth=1.6, label="measured", gid="measured")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="members, k", ylabel=f"{found['error']} on test")
        axes.set_title(f"{found['k']} members: {found['measured_error']:.4g} instead of {found['v']:.4g}")
        axes.legend(loc="upper right")

    return picture(draw, height=3.4)


def dropout_error(found: Found) -> bytes:
    """The error of the mean over the first masks by their number, with the formula's line and a band of two standard deviations."""
    rows = found["by_samples"]
    sizes = [row["samples"] for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        low, high = [row["low"] for row in rows], [row["high"] for row in rows]
        band = axes.fill_between(sizes, low, high, color=ORANGE, alpha=0.2, linewidth=0, label="2 sd of it")
        band.set_gid("band")
        axes.plot(sizes, [row["predicted"] for row in rows], color=ORANGE, label="v/S + (S - 1) c/S", gid="predicted")
        axes.plot(
            sizes, [row["measured"] for row in rows], "o-", color=BLUE, markersize=3.5, linewidth=1.6, label="measured", gid="measured"
        )
        for name, (text, dashes) in DASHES.items():
            if found[name] is not None:
                _level(axes, found[name], text, dashes, name.replace("_", "-"))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="masks, S", ylabel=f"{found['error']} on test")
        axes.set_title(f"Best member, {found['rows']} test rows: error by number of masks")
        axes.legend(loc="upper right")

    return picture(draw, height=3.6)


def _level(axes: Axes, value: float, text: str, dashes: tuple[int, tuple[int, ...]], gid: str) -> None:
    """A level that does not depend on the number."""
    axes.axhline(value, color=INK, linestyle=dashes, linewidth=1.2, label=text, gid=gid)
