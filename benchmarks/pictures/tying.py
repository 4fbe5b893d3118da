"""Distance between two layers of digits, and the validation error, over the strength of their tie."""

import torch
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material
from service.nets.network import weights_of
from workers.training.loop import Epoch, train
from workers.training.run import start
from workers.training.task import Task

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def trained(alpha: float) -> tuple[float, float]:
    """Root mean square of A - B, and the validation error in percent."""
    tie = {"type": "tie", "between": ["hidden.1", "hidden.2"], "alpha": alpha}
    made = material(architecture={"type": "mlp", "hidden": [48, 48, 48]}, regularizers=[tie], epochs=25, early_stopping=None)
    run = start(made, (0,), CPU)
    epochs = [record for record in train(run, Task(made, run, CPU), tick_s=1e9) if isinstance(record, Epoch)]
    a, b = (weights_of(run.network, [name], everything=False)[0].detach() for name in ("hidden.1", "hidden.2"))
    return float((a - b).square().mean().sqrt()), 100 * epochs[-1].values["validation.error"]


def draw(figure: Figure) -> None:
    """Two panels over the same axis."""
    torch.set_num_threads(1)
    points = [trained(alpha) for alpha in ALPHAS]
    for axes, values, name in zip(figure.subplots(1, 2), zip(*points, strict=True), ("rms of A - B", "validation error, %"), strict=True):
        axes.plot(ALPHAS, values, marker="o")
        axes.set_xscale("log")
        axes.set_xlabel("alpha of the tie")
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
