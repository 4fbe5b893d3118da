"""Robustness as pictures: accuracy against epsilon, per class, minimal distances, and rows beside what an attack made of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.inference.plots.canvas import BLUE, INK, ORANGE, label, picture
from service.inference.robustness_result import named

Found = Mapping[str, Any]
LEGEND_COLUMNS = 2
DASHES = ("-", "--", ":", "-.")
MOST_CLASSES = 30
MOST_TIMES = 3
"""Bounds of errors are shown up to so many times the largest error that was found: they grow without end."""


class Example(NamedTuple):
    """An image [H, W] or [H, W, C], what an attack made of it, and the answers before and after."""

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    said: tuple[str, str]


def robustness(result: Found, examples: Sequence[Example] = (), span: tuple[float, float] = (0.0, 1.0)) -> bytes:
    """The pictures of a robustness result; those that it has nothing for are left out."""
    panels = [_curves]
    per_row = result["per_row"]
    panels += [_classes] if result["worst_case"] and "accuracy" in result["worst_case"][0] and "label" in per_row else []
    panels += [_distances] if any(distance is not None for distance in per_row.get("distance", ())) else []
    lines = len(result["attacks"]) + 4  # and those of what is clean, worst, verified and chance
    heights = [3.0 + 0.17 * -(-lines // LEGEND_COLUMNS) if panel is _curves else 2.6 for panel in panels] + [1.5 * len(examples)] * bool(
        examples
    )

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flatten()
        for part, panel in zip(parts, panels, strict=False):
            panel(part.subplots(), result)
        if examples:
            _images(parts[-1].subplots(len(examples), 3, squeeze=False), examples, span)

    return picture(draw, height=sum(heights))


def _curves(axes: Axes, result: Found) -> None:
    """Each attack's accuracy, or error; the worst case and what is verified, with intervals. Severities, another scale, are left out."""
    measure = "accuracy" if "accuracy" in result["clean"] else "rmse"
    within = [attack for attack in result["attacks"] if "epsilon" in attack["curve"][0]]
    for i, attack in enumerate(within):
        points = attack["curve"]
        axes.plot([p["epsilon"] for p in points], [p[measure] for p in points], color=BLUE, linestyle=DASHES[i % 4], label=named(attack))
    axes.axhline(result["clean"][measure], color=ORANGE, linestyle=":", linewidth=1.2, label="clean", gid="clean")
    worst = result["worst_case"]
    at = [point["epsilon"] for point in worst]
    axes.plot(at, [point[measure] for point in worst], "o-", color=ORANGE, markersize=3.5, label="worst case", gid="worst-case")
    for attack in result["attacks"]:
        if attack not in within:
            axes.axhline(attack["curve"][2][measure], color=INK, linewidth=0.8, alpha=0.6, label=f"{attack['type']}, severity 3")
    _verified(axes, result.get("certified"), measure)
    if measure == "accuracy":
        _interval(axes, worst, ORANGE, "interval")
        _, counts = np.unique(result["per_row"]["label"], return_counts=True)
        axes.axhline(counts.max() / counts.sum(), color=INK, linestyle=(0, (4, 3)), linewidth=1.0, label="chance", gid="chance")
        axes.set_ylim(0, 1.02)
    verdict = {True: "reliable", False: "NOT reliable", None: "not all checks ran"}[result["reliable"]]
    axes.set(xlabel="epsilon", ylabel=measure)
    axes.set_title(f"{result['rows']} rows of {result['split']} under attack: {verdict}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=LEGEND_COLUMNS, fontsize=8)


def _verified(axes: Axes, certified: Found | None, measure: str) -> None:
    """The accuracy that none takes away, or the error that none exceeds; what lies between it and the worst case nobody knows."""
    curve = None if certified is None else certified["curve"]
    if certified is None or curve is None:
        return
    at, values = [point["epsilon"] for point in curve], [np.nan if point[measure] is None else point[measure] for point in curve]
    reached = axes.dataLim.y1
    axes.plot(at, values, "s-", color=INK, markersize=3.5, label=f"verified, {certified['norm']}", gid="verified")
    if measure == "accuracy":
        _interval(axes, curve, INK, "verified-interval")
    elif (top := MOST_TIMES * reached) < np.nanmax([0.0, *values]):
        axes.set_ylim(0, top)


def _interval(axes: Axes, points: Sequence[Found], color: str, name: str) -> None:
    at, low, high = ([point[key] for point in points] for key in ("epsilon", "low", "high"))
    axes.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0, gid=name)


def _classes(axes: Axes, result: Found) -> None:
    """The worst case by class and epsilon."""
    labels = np.array([str(name) for name in result["per_row"]["label"]])
    broken = np.array([np.inf if at is None else at for at in result["per_row"]["broken_at"]])
    names = sorted(set(labels), key=lambda name: (len(name), name))[:MOST_CLASSES]
    epsilons = [point["epsilon"] for point in result["worst_case"]]
    table = np.array([[float((broken[labels == name] > epsilon).mean()) for epsilon in epsilons] for name in names])
    shown = axes.imshow(table, vmin=0, vmax=1, cmap="cividis", aspect="auto", interpolation="nearest")
    shown.set_gid("classes")
    axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axes.set_yticks(range(len(names)), [label(name, 10) for name in names], fontsize=7)
    axes.grid(visible=False)
    axes.set(xlabel="epsilon", title="Accuracy in the worst case, by class")
    axes.figure.colorbar(shown, ax=axes, use_gridspec=False)


def _distances(axes: Axes, result: Found) -> None:
    """The share of rows by the length of the shortest perturbation that was found."""
    found = np.sort([distance for distance in result["per_row"]["distance"] if distance is not None])
    axes.step(found, np.arange(1, len(found) + 1) / len(found), where="post", color=BLUE, gid="distances")
    axes.axvline(float(np.median(found)), color=ORANGE, linestyle="--", linewidth=1.2, label=f"median {np.median(found):.3g}")
    axes.set(xlabel="minimal distance", ylabel="share of rows", ylim=(0, 1.02), title="Shortest perturbations that change the class")
    axes.legend(loc="lower right")


def _images(grid: NDArray[Any], examples: Sequence[Example], span: tuple[float, float]) -> None:
    """Original, adversarial and difference, a row each."""
    reach = max(1e-12, *(float(np.abs(example.after - example.before).max()) for example in examples))
    for row, example in zip(grid, examples, strict=True):
        for axes, image, said in zip(row[:2], (example.before, example.after), example.said, strict=True):
            axes.imshow((image - span[0]) / max(span[1] - span[0], 1e-12), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            axes.set_title(label(said), fontsize=8)
        change = example.after - example.before
        change = change.mean(-1) if change.ndim == 3 else change
        row[2].imshow(change, vmin=-reach, vmax=reach, cmap="PuOr", interpolation="nearest")
        row[2].set_title(f"difference, at most {np.abs(change).max():.3g}", fontsize=8)
        for axes in row:
            axes.set_axis_off()
