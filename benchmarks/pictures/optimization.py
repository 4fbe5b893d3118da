"""The picture of optimization: what the schedules do to the learning rate, and what the optimizers do with one."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures.gallery import decades
from benchmarks.workbench import material, trained
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.optimization import Constant, Cosine, StepDecay

STEPS_PER_EPOCH, EPOCHS = 5, 40
LINES = ((INK, (0, (1, 1))), (ORANGE, "-"), (BLUE, "-"))
OPTIMIZERS = {
    "sgd": {"type": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    "sgd, momentum .9": {"type": "sgd", "learning_rate": 0.05},
    "adam": {"type": "adam"},
}


def schedules(axes: Axes) -> None:
    """The multiplier of the learning rate at each step."""
    kinds = {
        "constant": Constant(),
        "step, every 10, factor .5": StepDecay(every=10, factor=0.5),
        "cosine, 2 epochs of warm-up": Cosine(warmup_epochs=2),
    }
    steps = STEPS_PER_EPOCH * EPOCHS
    for (name, kind), (color, dashes) in zip(kinds.items(), LINES, strict=True):
        found = [kind.multiplier(step, steps_per_epoch=STEPS_PER_EPOCH, steps=steps) for step in range(steps)]
        axes.plot(np.arange(steps) / STEPS_PER_EPOCH, found, color=color, linestyle=dashes, linewidth=1.6, label=name)
    axes.set(xlabel="epoch", ylabel="times the learning rate", ylim=(0, 1.35))
    axes.legend(loc="upper right")


def losses(axes: Axes) -> None:
    """The training loss of one network on digits, from the same first weights."""
    for (name, optimizer), (color, dashes) in zip(OPTIMIZERS.items(), LINES, strict=True):
        made = material(architecture={"type": "mlp", "hidden": [32]}, optimizer=optimizer, epochs=EPOCHS, early_stopping=None)
        found = [epoch.values["train.loss"] for epoch in trained(made)[1]]
        axes.semilogy(range(1, EPOCHS + 1), found, color=color, linestyle=dashes, linewidth=1.6, label=name)
    decades(axes.yaxis)
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.legend(loc="upper right")


def draw(figure: Figure) -> None:
    """Both, side by side."""
    figure.set_size_inches(7.6, 3.2)
    left, right = figure.subplots(1, 2)
    schedules(left)
    losses(right)
