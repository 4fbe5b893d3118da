"""Validation error of digits over the share of weights that is left, by L0 projection and by L1, each from its own training."""

import torch
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material
from service.nets.network import weights_of
from workers.training.loop import Epoch, train
from workers.training.run import start
from workers.training.task import Task

KEPT = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
ALPHAS = (3e-4, 1e-3, 3e-3, 6e-3, 1.2e-2)


def trained(penalty: dict[str, object]) -> tuple[float, float]:
    """The share of weights left and the validation error, in percent."""
    made = material(architecture={"type": "mlp", "hidden": [64, 64]}, regularizers=[penalty], epochs=40, early_stopping=None)
    run = start(made, (0,), CPU)
    epochs = [record for record in train(run, Task(made, run, CPU), tick_s=1e9) if isinstance(record, Epoch)]
    weights = weights_of(run.network, list(run.network.layers()), everything=False)
    left = sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)
    return 100 * left, 100 * epochs[-1].values["validation.error"]


def draw(figure: Figure) -> None:
    """Two curves over a logarithmic axis."""
    torch.set_num_threads(1)
    axes = figure.subplots()
    curves = {
        "L0, projection": [trained({"type": "l0", "method": "projection", "keep": keep}) for keep in KEPT],
        "L1": sorted(trained({"type": "l1", "alpha": alpha}) for alpha in ALPHAS),
    }
    for (name, points), mark in zip(curves.items(), "os", strict=True):
        axes.plot(*zip(*points, strict=True), marker=mark, label=name)
    axes.set_xscale("log")
    axes.set(xlim=(1.5, 110), ylim=(0, 45))
    axes.set_xlabel("weights that are not 0, %")
    axes.set_ylabel("validation error, %")
    axes.legend(frameon=False)
