"""A validation curve that is a U, what follows its best step, and how much of an L2 penalty stopping there is."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from benchmarks.early_stopping import RATE, TRAIN, design, rows, spec
from benchmarks.workbench import CPU, of_arrays
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.stopping import SECOND, ridge_share
from workers.training.loop import train
from workers.training.retraining import begin
from workers.training.run import Run, start
from workers.training.task import Task

Floats = NDArray[np.float64]


class Phases(NamedTuple):
    """A member's two phases, and its weights and bias at the start and at the best step."""

    first: Run
    second: Run
    before: Floats
    kept: Floats


def draw(figure: Figure) -> None:
    """Left: loss per epoch, in both phases; right: ridge along each direction as a share of the equivalent L2."""
    figure.set_size_inches(7.6, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    found = phases()
    _curves(left, found)
    _shares(right, found)


def phases() -> Phases:
    """The experiment of `benchmarks.early_stopping`, in this process; it goes on from the best step."""
    x, y = rows()
    fields = spec(early_stopping={"then": "continue", "patience": 60})
    material = of_arrays(str(fields.pop("dataset")), x.astype(np.float32), y.astype(np.float32), **fields)
    first = start(material, (0,), CPU)
    _finish(first, Task(material, first, CPU))
    kept = np.concatenate([tensor.double().numpy().ravel() for tensor in first.only.best.values()])
    before = np.concatenate([tensor.detach().double().numpy().ravel() for tensor in material.initial(0).learned().values()])
    second = begin(material, first.only, first.epoch, CPU)
    _finish(second, Task(material, second, CPU))
    return Phases(first, second, before, kept)


def _finish(run: Run, task: Task) -> None:
    for _ in train(run, task, tick_s=1e9):
        pass


def _curves(axes: Axes, found: Phases) -> None:
    history, best, plan = found.second.only.history, found.first.only.patience, found.second.second
    epochs = np.arange(1, found.first.epoch + 1)
    for role, color in (("train", BLUE), ("validation", ORANGE)):
        axes.plot(epochs, history[f"{role}.loss"], color=color, label=role)
        again = history[f"{SECOND}{role}.loss"]
        axes.plot(found.first.epoch + 1 + np.arange(len(again)), again, color=color, linestyle=(0, (3, 1.5)))
    axes.plot([best.epoch], [best.best], "o", color=ORANGE, markerfacecolor="none", markersize=6)
    axes.annotate("best step", (best.epoch, best.best or 0.0), (0, 9), textcoords="offset points", ha="center", color=INK)
    axes.axvline(found.first.epoch, color=INK, linewidth=0.8)
    if plan is not None and plan.threshold is not None:
        axes.axhline(plan.threshold, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate("threshold", (1, plan.threshold), (0, -11), textcoords="offset points", color=INK)
    axes.set(title="stopped, and gone on with all rows", xlabel="epoch", ylabel="loss")
    axes.legend(loc="upper right")


def _shares(axes: Axes, found: Phases) -> None:
    """Along a direction, alpha (theta - start) = lam (least squares - theta) at the minimum of loss and penalty."""
    x, y = design(slice(0, TRAIN))
    lam, directions = np.linalg.eigh(2 * x.T @ x / len(y))
    least = np.linalg.lstsq(x, y, rcond=None)[0]
    alpha = lam * (directions.T @ (least - found.kept)) / (directions.T @ (found.kept - found.before))
    steps = found.first.only.patience.step
    products = np.geomspace(0.03, RATE * steps * lam.max(), 100)
    shares = [ridge_share(float(product / RATE / steps), steps=steps, learning_rate=RATE) for product in products]
    axes.plot(products, shares, color=BLUE, label="lam q / (1 - q)")
    axes.plot(RATE * lam * steps, alpha * RATE * steps, ".", color=ORANGE, label="of the weights")
    axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(title="share of 1 / (rate steps)", xlabel="rate x curvature x steps", ylim=(-0.05, 1.1))
    axes.legend(loc="lower left")
