"""The picture of uncertainty: what the data leave open, and what networks disagree on, near the data and far from them."""

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.workbench import model, of_arrays
from service.inference.asking import ask
from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.modes import Asking

ROWS, LOW, HIGH = 160, -6.0, 8.0
SPEC = {
    "targets": [{"name": "y", "task": "regression", "loss": "gaussian_nll"}],
    "architecture": {"type": "mlp", "hidden": [50, 50]},
    "ensemble": {"size": 10},
    "split": {"validation": 0.0, "test": 0.0},
    "optimizer": {"type": "adam", "learning_rate": 0.01},
    "epochs": 300,
    "batch_size": "full",
    "early_stopping": None,
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Rows on both sides of a gap, noisier to the right."""
    stream = np.random.default_rng(0)
    x = np.concatenate([stream.uniform(-4, -1, ROWS // 2), stream.uniform(2, 6, ROWS // 2)])
    y = np.sin(x) + stream.normal(size=ROWS) * np.where(x < 0, 0.1, 0.4)
    return x[:, None].astype(np.float32), y.astype(np.float32)


def draw(figure: Figure) -> None:
    """The ensemble's mean and both standard deviations over the inputs."""
    x, y = data()
    deployed = model(of_arrays("gap", x, y, **SPEC))
    grid = torch.linspace(LOW, HIGH, 71).unsqueeze(1)
    answer = ask(deployed, grid, Asking(mode="ensemble").axes(deployed))["y"]
    at, mean = grid[:, 0].numpy(), answer.mean[:, 0].numpy()
    aleatoric, epistemic = (part[:, 0].sqrt().numpy() for part in (answer.aleatoric, answer.epistemic))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    figure.set_size_inches(5.6, 4.6)
    both = np.sqrt(aleatoric**2 + epistemic**2)
    above.plot(x[:, 0], y, ".", color=INK, alpha=0.5, markersize=3, label="training rows")
    above.fill_between(at, mean - 2 * both, mean + 2 * both, color=BLUE, alpha=0.15, linewidth=0, label="2 std")
    above.plot(at, mean, color=BLUE, linewidth=1.6, label="mean")
    above.set(ylabel="y", ylim=(-4, 4))
    above.set_title("Ten networks with Gaussian heads")
    above.legend(loc="upper left", ncols=3)
    below.plot(at, aleatoric, color=ORANGE, linewidth=1.6, label="aleatoric_std")
    below.plot(at, epistemic, color=BLUE, linewidth=1.6, label="epistemic_std")
    below.set(xlabel="x", ylabel="std", ylim=(0, 1.5), xlim=(LOW, HIGH))
    below.legend(loc="upper left")
