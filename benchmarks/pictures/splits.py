"""The picture of splits: which rows each kind takes, and what a random one promises where rows belong together."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.workbench import model, of_columns
from service.inference.asking import ask
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.modes import Asking
from service.tricks.splits import Columns, Split
from service.tricks.splits import draw as drawn

ROWS, GROUP = 40, 5
SEEDS = range(6)


def strips(axes: Axes) -> None:
    """Forty rows in the order of time, five of each group, and the part that each is in."""
    columns = Columns(groups=np.arange(ROWS) // GROUP, times=np.arange(ROWS))
    kinds = {"random": {}, "group": {"group": "who"}, "time": {"time": "when"}}
    parts = []
    for fields in kinds.values():
        found = drawn(Split.model_validate({"validation": 0.15, "test": 0.15, "stratify": False, **fields}), ROWS, columns)
        row = np.zeros(ROWS)
        row[found.validation], row[found.test] = 1, 2
        parts.append(row)
    colors = ["#c9ccd1", BLUE, ORANGE]
    axes.pcolormesh(np.array(parts)[::-1], cmap=ListedColormap(colors), edgecolors="white", linewidth=0.4)
    axes.set_yticks(np.arange(len(kinds)) + 0.5, list(kinds)[::-1])
    axes.set(xlabel="row, oldest first; five to a group", xticks=range(0, ROWS + 1, 10))
    axes.grid(visible=False)
    names = [Patch(color=color, label=name) for color, name in zip(colors, ("train", "validation", "test"), strict=True)]
    axes.legend(handles=names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def people() -> dict[str, np.ndarray]:
    """Six rows of each of 80 people, alike but for a little noise, whose class is a property of the person and half chance."""
    stream = np.random.default_rng(0)
    centres = np.repeat(stream.normal(size=(80, 6)), 6, axis=0)
    sure = centres[:, 0] > 0
    kind = np.where(np.repeat(stream.random(80) < 0.3, 6), ~sure, sure)
    x = centres + 0.05 * stream.normal(size=centres.shape)
    names = {f"x{i}": x[:, i].round(4) for i in range(x.shape[1])}
    return {**names, "who": np.repeat([f"p{i:02d}" for i in range(80)], 6), "kind": np.where(kind, "a", "b")}


def promised(fields: dict[str, object], seed: int) -> float:
    """The error on the test part of a split."""
    net = {"type": "mlp", "hidden": [64]}
    split = {"test": 0.3, "validation": 0.0, "seed": seed, **fields}
    made = of_columns("people", people(), architecture=net, features={"drop": ["who"]}, split=split, epochs=60, early_stopping=None)
    deployed, test = model(made), made.parts.test
    answer = ask(deployed, torch.from_numpy(made.inputs[test]).float(), Asking().axes(deployed))["kind"]
    return float((answer.prediction != made.labels["kind"][test]).double().mean())


def errors(axes: Axes) -> None:
    """The error on test rows of people that training knows, and of people that it does not."""
    for place, (fields, color) in enumerate((({}, ORANGE), ({"group": "who"}, BLUE))):
        found = [promised(fields, seed) for seed in SEEDS]
        axes.plot([place] * len(found), found, "o", color=color, alpha=0.6, markersize=5)
        axes.plot([place - 0.2, place + 0.2], [np.mean(found)] * 2, color=INK, linewidth=1.6)
    axes.set(xlim=(-0.6, 1.6), ylim=(0, 0.7), ylabel="error on test")
    axes.set_xticks([0, 1], ["random", "group"])
    axes.set_title("Six rows of each person")


def draw(figure: Figure) -> None:
    """Both, side by side."""
    figure.set_size_inches(7.6, 3.0)
    left, right = figure.subplots(1, 2, width_ratios=[5, 3])
    strips(left)
    errors(right)
