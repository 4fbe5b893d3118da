"""Autoencoders' picture: the error by width of the code beside principal components, and rows that went through a narrow code."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.workbench import CPU, material
from service.inference.material import Material
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.nets.network import Network
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

CODES, EPOCHS, SHOWN = (1, 2, 4, 8, 16), 60, 6


def trained(code: int, *, tied: bool) -> tuple[Material, Network]:
    """An autoencoder of the digits with its best weights."""
    net = {"type": "autoencoder", "hidden": [48], "code": code, "tied": tied}
    made = material(architecture=net, epochs=EPOCHS, optimizer={"type": "adam", "learning_rate": 0.003}, schedule={"type": "cosine"})
    run = start(made, (0,), CPU)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    network = made.build(None)
    network.load(run.only.best)
    return made, network.eval()


@torch.inference_mode()
def reconstructed(made: Material, network: Network) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Test rows and what becomes of them, flat and in the inputs' unit."""
    rows = made.inputs[made.parts.test]
    said = network.distributions(torch.tensor(rows))["input"].mean
    if said is None:
        raise TypeError("a reconstruction says means")
    return rows.reshape(len(rows), -1).astype(float), said.double().numpy()


def principal(made: Material, codes: tuple[int, ...]) -> list[float]:
    """The mean squared error on test of the first principal components of the training rows."""
    train_rows, test_rows = (made.inputs[part].reshape(len(part), -1).astype(float) for part in (made.parts.train, made.parts.test))
    mean = train_rows.mean(0)
    axes = np.linalg.svd(train_rows - mean, full_matrices=False)[2]
    kept = [(test_rows - mean) @ axes[:k].T @ axes[:k] + mean for k in codes]
    return [float(((test_rows - own) ** 2).mean()) for own in kept]


def errors(axes: Axes) -> None:
    """The error in the inputs' unit by width of the code."""
    for tied, color, name in ((False, BLUE, "autoencoder"), (True, ORANGE, "tied")):
        found = []
        for code in CODES:
            rows, said = reconstructed(*trained(code, tied=tied))
            found.append(float(((rows - said) ** 2).mean()))
        axes.plot(CODES, found, "o-", color=color, markersize=3.5, linewidth=1.6, label=name)
    made, _ = trained(1, tied=True)
    axes.plot(CODES, principal(made, CODES), color=INK, linestyle=(0, (6, 3)), linewidth=1.2, label="principal components")
    axes.set_xscale("log", base=2)
    axes.set_xticks(CODES, [str(code) for code in CODES])
    axes.set(xlabel="width of the code", ylabel="error_original on test", ylim=(0, None))
    axes.set_title("64-48-code-48-64 on digits")
    axes.legend(loc="upper right")


def digits(axes: Axes) -> None:
    """Some test rows above what came back through codes of 2 and of 8."""
    found = [reconstructed(*trained(code, tied=False)) for code in (2, 8)]
    lines = [found[0][0], found[0][1], found[1][1]]
    tiles = [np.concatenate([np.pad(line[i].reshape(8, 8), 1) for i in range(SHOWN)], axis=1) for line in lines]
    axes.imshow(np.concatenate(tiles), cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
    axes.set_yticks([4.5, 14.5, 24.5], ["row", "code 2", "code 8"])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.set_title("Test rows, and what came back")


def draw(figure: Figure) -> None:
    """Both, side by side."""
    figure.set_size_inches(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    errors(left)
    digits(right)
