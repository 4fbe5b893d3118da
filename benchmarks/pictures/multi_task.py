"""The picture of learned weights: how two targets of unlike noise come to count, and what a masked label costs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material
from service.inference.plots.canvas import BLUE, INK, ORANGE
from workers.training.loop import Epoch, train
from workers.training.run import start
from workers.training.task import Task

EPOCHS = 120
SPEC = {
    "dataset": "diabetes",
    "targets": [{"name": "target", "task": "regression", "weight": "learned"}, {"name": "s4", "task": "regression", "weight": "learned"}],
    "architecture": {"type": "mlp", "hidden": [32]},
    "epochs": EPOCHS,
    "early_stopping": None,
    "optimizer": {"type": "adam", "learning_rate": 0.01},
}


def learned() -> dict[str, list[float]]:
    """By target, s^2 after every epoch and the loss on the training rows."""
    made = material(**SPEC)
    run = start(made, (0,), CPU)
    found: dict[str, list[float]] = {"target": [], "s4": [], "target.loss": [], "s4.loss": []}
    x, labels = made.rows(made.parts.train)
    for record in train(run, Task(made, run, CPU), tick_s=1e9):
        if isinstance(record, Epoch):
            raw = run.network.eval()(x.float())
            for target in made.targets:
                found[target.name].append(float(run.network.log_variances[target.name].detach().exp()))
                found[f"{target.name}.loss"].append(float(target.loss_of(raw[target.name], labels[target.name]).detach()))
    return found


def curves(axes: Axes) -> None:
    """s^2 of both targets, and the losses that they follow."""
    found, epochs = learned(), np.arange(1, EPOCHS + 1)
    for name, color in (("target", BLUE), ("s4", ORANGE)):
        axes.semilogy(epochs, found[name], color=color, linewidth=1.6, label=f"s² of {name}")
        axes.semilogy(epochs, found[f"{name}.loss"], color=color, linewidth=1.0, linestyle=(0, (4, 2)), label="its loss")
    axes.axhline(1.0, color=INK, linewidth=0.6)
    axes.set(xlabel="epoch", ylabel="mse, normalized")
    axes.set_title("Learned noise comes to the loss")
    axes.legend(loc="lower left", ncols=2)


def draw(figure: Figure) -> None:
    """One panel."""
    curves(figure.subplots())
