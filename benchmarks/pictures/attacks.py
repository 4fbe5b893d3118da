"""The attacks' picture: one network on digits beside the same with logits 30,000 times as large, under five attacks."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material
from service.inference.model import Model, serving
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.inference.robustness import Subject
from service.tricks.attacks import APGD, FGSM, PGD, AnyAttack, Square, UniformNoise
from service.tricks.modes import Asking
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

EPSILONS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
ROWS = 150
ATTACKS: tuple[tuple[AnyAttack, str, Any], ...] = (
    (UniformNoise(epsilon=0.0), INK, "-"),
    (FGSM(epsilon=0.0), BLUE, ":"),
    (PGD(epsilon=0.0, steps=20), BLUE, "--"),
    (APGD(epsilon=0.0, steps=20), BLUE, "-"),
    (Square(epsilon=0.0, queries=300), ORANGE, "-"),
)


def trained(scale: float) -> Subject:
    """Test rows of digits before a network that was trained with that factor on its logits."""
    made = material(dataset="digits", architecture={"type": "mlp", "hidden": [64], "logit_scale": scale}, epochs=15)
    run = start(made, (0,), CPU)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    network = made.build(None)
    network.load(run.only.best)
    model = Model(made.spec, made.encoding, made.classes, (serving(network),), 0)
    rows = made.parts.test[:ROWS]
    return Subject(model, Asking().axes(model), made.rows(rows)[0].float(), made.labels["label"][torch.from_numpy(rows)])


def curves(axes: Axes, subject: Subject) -> None:
    """Accuracy against epsilon, a line per attack."""
    for attack, color, line in ATTACKS:
        left = [float(subject.attack(attack.sized(epsilon)).standing.float().mean()) if epsilon else None for epsilon in EPSILONS]
        clean = float(subject.right.float().mean())
        axes.plot(EPSILONS, [clean if share is None else share for share in left], line, color=color, label=attack.type)
    axes.axhline(0.1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlabel="epsilon, of 16", ylim=(0, 1.02), xticks=np.arange(5))


def draw(figure: Figure) -> None:
    """Side by side, one legend."""
    figure.set_size_inches(6.4, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    curves(left, trained(1.0))
    curves(right, trained(30_000.0))
    left.set(ylabel="accuracy on test", title="a plain network")
    right.set_title("its logits times 30,000")
    right.legend(loc="lower left", fontsize=8)
