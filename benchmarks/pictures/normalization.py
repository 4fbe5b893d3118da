"""Normalization's picture: saturated and dead units of one network on raw and on normalized inputs, before training and after."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material
from service.inference.measuring import Inquiry
from service.inference.model import Model, serving
from service.inference.plots.canvas import BLUE, ORANGE
from service.inference.report_activations import activations
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

EPOCHS = 60


def layers(how: str, activation: str) -> dict[str, Any]:
    """What the report says of the units of a network on diabetes, whose columns have means from 1.5 to 190."""
    net = {"type": "mlp", "hidden": [64, 64], "activation": activation}
    made = material(dataset="diabetes", architecture=net, preprocessing={"normalize": how}, epochs=EPOCHS)
    run = start(made, (0,), CPU)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    network = made.build(None)
    network.load(run.only.best)
    model = Model(made.spec, made.encoding, made.classes, (serving(network),), 0)
    found = activations(Inquiry(model, made))
    if found is None:
        raise TypeError("a network with hidden layers has units")
    return dict(found["layers"])


def bars(axes: Axes, activation: str, share: str) -> None:
    """By layer and moment, the share of units on raw inputs beside that on normalized ones."""
    places, labels = np.arange(4), [f"{name}\n{moment} step" for name in ("hidden.0", "hidden.1") for moment in ("first", "best")]
    for shift, how, color, said in ((-0.2, "none", ORANGE, "raw inputs"), (0.2, "standard", BLUE, "normalized")):
        found = layers(how, activation)
        values = [100 * found[name][moment][share] for name in ("hidden.0", "hidden.1") for moment in ("first", "best")]
        drawn = axes.bar(places + shift, values, 0.38, color=color, label=said)
        axes.bar_label(drawn, [f"{value:.0f}" for value in values], fontsize=8.0, padding=1)
    axes.set_xticks(places, labels, fontsize=8.0)
    axes.set(ylim=(0, 112), ylabel=f"{share}, %")
    axes.grid(visible=False, axis="x")
    axes.set_title(f"{activation}: {'outputs that are' if share == 'saturated' else 'units that are'} {share}")
    axes.legend(loc="upper right")


def draw(figure: Figure) -> None:
    """Saturated outputs of tanh and dead units of relu, side by side."""
    figure.set_size_inches(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    bars(left, "tanh", "saturated")
    bars(right, "relu", "dead")
