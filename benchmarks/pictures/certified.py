"""The certificates' picture: what is attacked lies between what is clean and what is verified; the radii of a smoothed net."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import material, model
from service.inference.certifying import verified
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.inference.robustness import Subject
from service.inference.smoothed import smooth
from service.tricks.attacks import PGD
from service.tricks.certification import Smoothing
from service.tricks.modes import Asking

NET = {"type": "mlp", "hidden": [64]}
EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SIGMA, ROWS = 2.0, 150


def subject(**training: object) -> Subject:
    """The first test rows of digits under attack, of a net trained so."""
    made = material(architecture=NET, epochs=25, early_stopping=None, adversarial_training=training or None)
    trained = model(made)
    x, labels = made.rows(made.parts.test[:ROWS])
    return Subject(trained, Asking().axes(trained), x.float(), labels["label"])


def panel(axes: Axes, title: str, **training: object) -> None:
    """Errors over epsilon: clean, under PGD, verified."""
    found = subject(**training)
    clean = 1 - float(found.right.float().mean())
    attacked = [1 - float(found.attack(PGD(epsilon=epsilon, steps=20)).standing.float().mean()) for epsilon in EPSILONS]
    held = verified(found, [PGD(epsilon=0.0)], EPSILONS) or []
    axes.axhline(clean, color=INK, linewidth=1.2, label="clean")
    axes.plot(EPSILONS, attacked, color=ORANGE, linewidth=1.6, label="under PGD")
    axes.plot(EPSILONS, [1 - sum(rows) / len(rows) for rows in held], color=BLUE, linewidth=1.6, label="verified")
    axes.set(xlabel="epsilon, pixels from 0 to 16", ylabel="error on test", ylim=(0, 1.02))
    axes.set_title(title)
    axes.legend(loc="best")


def radii(axes: Axes) -> None:
    """Certified accuracy by radius, of a net trained on noise and smoothed with as much."""
    found = subject(method="noise", std=SIGMA)
    for n, color in ((100, INK), (1000, BLUE)):
        said = smooth(found.model, found.x, found.axes, Smoothing(sigma=SIGMA, n=n))["label"]
        names = found.model.classes[0] or ()
        right = [name == names[int(truth)] for name, truth in zip(said["prediction"], found.truth, strict=True)]
        held = np.array([radius if radius is not None and own else -1.0 for radius, own in zip(said["radius"], right, strict=True)])
        at = torch.linspace(0, 3 * SIGMA, 200).numpy()
        axes.plot(at, [(held >= radius).mean() for radius in at], color=color, linewidth=1.6, label=f"n = {n}")
    axes.set(xlabel="radius in L2", ylabel="certified accuracy", ylim=(0, 1.02))
    axes.set_title(f"smoothed, sigma {SIGMA:g}")
    axes.legend(loc="upper right")


def draw(figure: Figure) -> None:
    """Plain, trained on bounds, smoothed, side by side."""
    figure.set_size_inches(10.4, 3.3)
    left, middle, right = figure.subplots(1, 3)
    panel(left, "plain")
    panel(middle, "trained on bounds, epsilon 1", method="ibp", epsilon=1.0)
    radii(right)
