"""Adversarial training's picture: what one step cannot see, and what many steps are worth."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import CPU, material
from service.inference.plots.canvas import BLUE, ORANGE
from service.tricks.adversarial import FastTraining
from workers.training.loop import Epoch, train
from workers.training.overfitting import Watch
from workers.training.run import start
from workers.training.task import Task

EPSILON, EPOCHS = 4.0, 40


def series(**training: object) -> tuple[list[float], list[float]]:
    """Accuracy on validation rows under FGSM and under PGD, epoch by epoch."""
    net = {"type": "mlp", "hidden": [128, 128]}
    made = material(architecture=net, epochs=EPOCHS, early_stopping=None, adversarial_training={"epsilon": EPSILON, **training})
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    watch = Watch(made, task.loss, FastTraining(epsilon=EPSILON), CPU, task.beat)
    scores = [watch.scores(run.network, task.movable) for record in train(run, task, tick_s=1e9) if isinstance(record, Epoch)]
    return [score.fgsm[0] for score in scores], [score.pgd[0] for score in scores]


def panel(axes: Axes, title: str, **training: object) -> None:
    fgsm, pgd = series(**training)
    axes.plot(range(1, EPOCHS + 1), fgsm, color=ORANGE, linewidth=1.6, label="under FGSM")
    axes.plot(range(1, EPOCHS + 1), pgd, color=BLUE, linewidth=1.6, label="under PGD")
    axes.set(xlabel="epoch", ylabel="accuracy on validation", ylim=(0, 0.8))
    axes.set_title(title)
    axes.legend(loc="upper left")


def draw(figure: Figure) -> None:
    """Trained on one step and on seven, side by side."""
    figure.set_size_inches(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    panel(left, "trained on the FGSM mix", method="fgsm")
    panel(right, "trained on PGD", method="pgd")
