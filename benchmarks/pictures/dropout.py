"""Dropout's picture: what it does to the loss on rows not trained on, and how averages over masks lie to each other."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures.gallery import decades
from benchmarks.workbench import material, model, trained
from service.inference.asking import ask
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.modes import Asking

EPOCHS, SEEDS = 60, 8
SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
FEW = {"test": 0.15, "validation": 0.7, "seed": 1}


def losses(axes: Axes) -> None:
    """The validation loss of one network trained on few rows, with and without dropout."""
    for rates, color, name in ((None, ORANGE, "without"), ({"input": 0.2, "hidden": 0.5}, BLUE, "with dropout")):
        net = {"type": "mlp", "hidden": [256, 256], "dropout": rates}
        made = material(architecture=net, split=FEW, epochs=EPOCHS, early_stopping=None)
        found = [epoch.values["validation.loss"] for epoch in trained(made)[1]]
        axes.plot(range(1, EPOCHS + 1), found, color=color, label=name, linewidth=1.6)
    axes.set(xlabel="epoch", ylabel="validation loss", ylim=(0.1, 0.5))
    axes.set_title(f"{len(made.parts.train)} training rows")
    axes.legend(loc="upper right")


def averages(axes: Axes) -> None:
    """The distance of the mean over S masks from the mean over all 2^10, and those of the two rules that need no sampling."""
    net = {"type": "mlp", "hidden": [10], "dropout": 0.5}
    made = material(architecture=net, epochs=30, early_stopping=None)
    deployed = model(made)
    rows = torch.from_numpy(made.inputs[made.parts.test]).float()

    def said(**asked: object) -> np.ndarray:
        answer = ask(deployed, rows, Asking.model_validate(asked).axes(deployed))["label"]
        return np.asarray(answer.probabilities)

    limit = said(mode="exact")

    def distance(samples: int, seed: int) -> float:
        return float(np.abs(said(mode="monte_carlo", samples=samples, seed=seed) - limit).mean())

    found = [np.mean([distance(samples, seed) for seed in range(SEEDS)]) for samples in SAMPLES]
    axes.loglog(SAMPLES, found, "o-", color=BLUE, markersize=3.5, linewidth=1.6, label="S masks")
    axes.loglog(SAMPLES, found[0] / np.sqrt(SAMPLES), color=ORANGE, linewidth=1.2, label="one over root S")
    axes.axhline(np.abs(said(mode="weight_scaled") - limit).mean(), color=INK, linestyle=(0, (6, 3)), linewidth=1.2, label="weight scaling")
    axes.set(xlabel="masks, S", ylabel="difference of probabilities", ylim=(0.001, 0.1))
    decades(axes.xaxis)
    decades(axes.yaxis)
    axes.set_title("Distance from the mean of all masks")
    axes.legend(loc="lower left")


def draw(figure: Figure) -> None:
    """Both, side by side."""
    figure.set_size_inches(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    losses(left)
    averages(right)
