"""Augmentation's picture: a digit under each transform, and what networks say of digits that are turned further and further."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from benchmarks.workbench import CPU, material
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.nets.network import Network
from service.tricks.augmentation import Augmentation, GaussianNoise
from service.tricks.augmenting import Augmented
from service.tricks.geometry import Cutout, Flip, Rotate, Scale, Translate, rotations, sampled
from service.tricks.mixing import CutMix, Mixup
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

ROWS = (13, 4)
"""The digit that is changed, a 3, and the one that it is mixed with."""
TRANSFORMS: tuple[Augmentation | None, ...] = (
    None, Translate(pixels=1), Rotate(degrees=15.0), Scale(low=0.8, high=1.2), Flip(axis="horizontal"), GaussianNoise(std=2.0),
    Cutout(size=3), Mixup(alpha=8.0), CutMix(),
)  # fmt: skip
ANGLES = np.arange(0.0, 181.0, 5.0)
DECLARED = 15.0
NET = {"type": "mlp", "hidden": [128]}


def trained(*transforms: Augmentation) -> Network:
    """A network for the digits, and what its training rows go through."""
    made = material(architecture=NET, epochs=40, early_stopping=None, augmentation=[each.dump() for each in transforms])
    run = start(made, (0,), CPU)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    return run.network.eval()


def transformed(figure: SubFigure) -> None:
    """One digit as it is stored, and as an epoch of each transform has it."""
    made = material(architecture=NET)
    rows = torch.tensor(ROWS)
    x = torch.from_numpy(made.inputs[list(ROWS)]).float()
    for axes, transform in zip(figure.subplots(3, 3).flat, TRANSFORMS, strict=True):
        changed = Augmented(() if transform is None else (transform,), (1,), classes={})(x, {}, rows, epoch=2)[0]
        axes.imshow(changed[0], cmap="gray", vmin=0, vmax=16, interpolation="none")
        axes.set_title("stored" if transform is None else transform.type.replace("gaussian_", ""), size=7.5, loc="center", pad=2)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)


def turned(axes: Axes) -> None:
    """The share of test rows that are told right by the angle they are turned by, and of sixes that are called nines."""
    made = material(architecture=NET)
    x, labels = made.rows(made.parts.test)
    sixes = x[labels["label"] == 6].float()

    def share(network: Network, images: torch.Tensor, wanted: torch.Tensor | int, angle: float) -> float:
        moved = sampled(images.float(), rotations(np.full(len(images), angle)))
        with torch.no_grad():
            return float((network(moved)["label"].argmax(-1) == wanted).float().mean())

    for network, color, name in ((trained(), ORANGE, "plain"), (trained(Rotate(degrees=DECLARED)), BLUE, "rotate, 15 degrees")):
        axes.plot(
            ANGLES, [share(network, x, labels["label"], angle) for angle in ANGLES], color=color, label=f"right: {name}", linewidth=1.6
        )
    nines = [share(network, sixes, 9, angle) for angle in ANGLES]
    axes.plot(ANGLES, nines, color=BLUE, linestyle=(0, (4, 2)), label="sixes called 9", linewidth=1.2)
    axes.axvspan(0, DECLARED, color=INK, alpha=0.15, linewidth=0)
    axes.set(xlabel="turned by, degrees", ylabel="share of test rows", ylim=(0, 1.02), xlim=(0, 180), xticks=[0, 45, 90, 135, 180])
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.97), fontsize=7.5)


def draw(figure: Figure) -> None:
    """Both, side by side."""
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    transformed(left)
    turned(right.subplots())
