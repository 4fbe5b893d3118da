"""Convolution's picture: what transposed convolutions reach how often, and rows of digits through autoencoders of both kinds."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.workbench import material, model
from service.inference.asking import ask
from service.inference.plots.canvas import BLUE, ORANGE
from service.nets.convolution import Kernel
from service.nets.upsampling import transposed
from service.tricks.modes import Asking

ROWS = 5


def reached(axes: Axes) -> None:
    """How many windows reach each place of a transposed convolution with steps of 2: ones through ones."""
    for size, color in ((3, ORANGE), (4, BLUE)):
        found = transposed(torch.ones(1, 1, 10), torch.ones(1, 1, size), Kernel(size, 2), (20,))
        axes.step(range(20), found.flatten().tolist(), where="mid", color=color, label=f"kernel {size}", linewidth=1.6)
    axes.set(xlabel="place", ylabel="windows that reach it", ylim=(0, 3), yticks=[0, 1, 2, 3])
    axes.set_title("y = Wᵀx with steps of 2")
    axes.legend(loc="lower right")


def drawn(axes: Axes) -> None:
    """Test rows, and what autoencoders with codes of eight numbers make of them."""
    nets = {
        "transposed\nconvolution": {"type": "conv_autoencoder", "channels": [8, 16], "kernel": 4, "code": 8},
        "unpooling": {"type": "conv_autoencoder", "channels": [8, 16], "code": 8, "upsampling": "unpooling"},
    }
    shown, names = [], ["row", *nets]
    for net in nets.values():
        made = material(architecture=net, epochs=20)
        rows = torch.from_numpy(made.inputs[made.parts.test[:ROWS]]).float()
        deployed = model(made)
        said = ask(deployed, rows, Asking(mode="single").axes(deployed))["input"]
        shown.append(np.concatenate(list(said.mean.view(-1, 8, 8).numpy()), axis=1))
    first = np.concatenate(list(rows.numpy()), axis=1)
    axes.imshow(np.concatenate([first, *shown]), cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
    axes.set(xticks=[], yticks=[3.5, 11.5, 19.5], yticklabels=names)
    axes.set_title("digits through a code of 8 numbers")


def draw(figure: Figure) -> None:
    """Both, side by side."""
    left, right = figure.subplots(1, 2)
    reached(left)
    drawn(right)
