"""Bagging's picture: the error of the average by the number of members, measured and by the formula."""

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.workbench import material, model
from service.inference.asking import ask
from service.inference.decomposition import errors_by_size, member_squares, variance_decomposition
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.modes import Asking

MEMBERS = 16
SPEC = {
    "dataset": "diabetes",
    "architecture": {"type": "mlp", "hidden": [64]},
    "ensemble": {"size": MEMBERS, "bootstrap": True},
    "split": {"test": 0.4, "validation": 0.0},
    "optimizer": {"type": "adam", "learning_rate": 0.01},
    "epochs": 60,
    "early_stopping": None,
}


def draw(figure: Figure) -> None:
    """The mean squared error on test of bagged networks that are trained for too long; c is what their errors share."""
    made = material(**SPEC)
    deployed, test = model(made), made.parts.test
    answer = ask(deployed, torch.from_numpy(made.inputs[test]).float(), Asking(mode="ensemble").axes(deployed), keep=True)["target"]
    errors = answer.members.mean.double().numpy() - made.originals["target"][test]
    shared, by_size = variance_decomposition(errors)["c"], errors_by_size(errors)
    sizes = [row["k"] for row in by_size]
    axes = figure.subplots()
    each = member_squares(errors).mean(1)
    axes.plot([1] * MEMBERS, each, "o", color=INK, alpha=0.5, markersize=4, label="each member")
    axes.plot(sizes, [row["predicted"] for row in by_size], color=ORANGE, linewidth=1.2, label="v/k + (k - 1) c/k")
    axes.plot(sizes, [row["measured"] for row in by_size], "o-", color=BLUE, markersize=3.5, linewidth=1.6, label="the first k together")
    axes.axhline(shared, color=INK, linestyle=(0, (6, 3)), linewidth=1.2, label="c, what they share")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="members, k", ylabel="mean squared error on test")
    axes.set_title(f"{MEMBERS} bagged networks on diabetes")
    axes.legend(loc="upper right")
