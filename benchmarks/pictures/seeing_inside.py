"""The picture of looking inside: projections of digits, and gradients of a plain net beside its residual twin, an LSTM beside an RNN."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material, of_arrays, trained
from service.inference.plots.canvas import BLUE, ORANGE
from service.inference.plots.curves import logarithmic
from service.inference.plots.features import show, signed, tile
from service.inference.projecting import strongest
from service.nets.projection import peaks, project
from workers.training.gradients import over_training
from workers.training.loop import train
from workers.training.run import Member, start
from workers.training.task import Task

DEPTH, WIDTH, STEPS = 55, 32, 20
TWINS = {"batch_size": 128, "epochs": 12, "early_stopping": None, "optimizer": {"type": "adam", "learning_rate": 2e-3}}
SEQUENCES = {
    "batch_size": 64, "epochs": 15, "early_stopping": {"monitor": "error", "patience": 15},
    "optimizer": {"type": "adam", "learning_rate": 5e-3},
}  # fmt: skip


def projections(axes: Axes) -> None:
    """Test rows, and below each what its strongest channel of the second convolution sees of it."""
    made = material(architecture={"type": "cnn", "channels": [8, 16], "hidden": [32]}, epochs=20)
    network = trained(made)[0]
    rows = torch.from_numpy(made.inputs[made.parts.test[:12]]).float()
    channels = strongest(peaks(network, "conv.1", rows).values, 1)
    seen = project(network, "conv.1", rows, channels)[1][:, 0]
    show(axes, [*(tile(row / 16, 2) for row in rows.numpy()), *(tile(signed(one), 2) for one in seen.numpy())], len(rows))
    axes.set_title("digits, and what their strongest channel of conv.1 answers to")


def member_of(made: Any) -> Member:
    """The member at the end of its training."""
    run = start(made, (0,), CPU)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    return run.only


def twins(axes: Axes) -> None:
    """Norms by layer of a plain perceptron and of its residual twin, at the first step and at the best."""
    for residual, color in ((False, ORANGE), (True, BLUE)):
        net = {"type": "mlp", "hidden": [WIDTH] * DEPTH, "batch_norm": True, "residual": residual, "bias": False, "init": "he"}
        made = material(architecture=net, **TWINS)
        found = over_training(made, member_of(made), CPU)
        for moment, style in (("first", "-"), ("best", ":")):
            norms = [(found[moment] or {})["layers"][f"hidden.{i}"] for i in range(DEPTH)]
            axes.plot(range(DEPTH), norms, style, color=color, label=f"{'residual' if residual else 'plain'}, {moment}", linewidth=1.6)
    axes.set(xlabel="hidden layer", ylabel="gradient norm")
    axes.set_title("by layer")
    logarithmic(axes)
    axes.legend(loc="best", fontsize=7.5)


def sequences(axes: Axes) -> None:
    """Norms over time of an LSTM and a plain cell that are to tell what the first step of a sequence was."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(2000, STEPS, 2)).astype(np.float32)
    for cell, color in (("rnn", ORANGE), ("lstm", BLUE)):
        made = of_arrays(
            "first-of-twenty",
            x,
            (x[:, 0, 0] > 0).astype(int),
            architecture={"type": "recurrent", "cell": cell, "hidden": [32]},
            **SEQUENCES,
        )
        found = over_training(made, member_of(made), CPU)
        for moment, style in (("first", "-"), ("best", ":")):
            axes.plot(
                range(1, STEPS + 1),
                (found[moment] or {})["over_time"]["hidden.0"],
                style,
                color=color,
                label=f"{cell}, {moment}",
                linewidth=1.6,
            )
    axes.set(xlabel="time step", ylabel="gradient norm")
    axes.set_title("by time step")
    logarithmic(axes)
    axes.legend(loc="best", fontsize=7.5)


def draw(figure: Figure) -> None:
    """Projections above, gradients below."""
    places = figure.subplot_mosaic([["projections", "projections"], ["twins", "sequences"]], height_ratios=[1, 2.2])
    projections(places["projections"])
    twins(places["twins"])
    sequences(places["sequences"])
