"""The picture of labels: what focal loss and smoothing pay for a probability, and where quantiles of a noisy line come to lie."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.inference.plots.canvas import BLUE, INK, ORANGE
from service.tricks.multitask import Classification, Regression

P = torch.linspace(0.02, 0.995, 80)


def losses(axes: Axes) -> None:
    """The loss of one row by the probability of its class, of two."""
    raw = torch.stack([P.log(), (1 - P).log()], dim=-1)
    labels = torch.zeros(len(P), dtype=torch.int64)
    for target, color, name in (
        (Classification(name="y"), INK, "cross-entropy"),
        (Classification(name="y", loss="focal"), BLUE, "focal, gamma 2"),
        (Classification(name="y", label_smoothing=0.2), ORANGE, "smoothed by .2"),
    ):
        axes.plot(P, target.losses(raw, labels), color=color, linewidth=1.6, label=name)
    axes.set(xlabel="probability of the label", ylabel="loss, nats", ylim=(0, 3))
    axes.legend()


def quantiles(axes: Axes) -> None:
    """The .05, .5 and .95 quantiles that a small network finds of y = sin x + noise that grows."""
    stream = np.random.default_rng(0)
    x = np.sort(stream.uniform(0, 6, 150)).astype(np.float32)
    y = (np.sin(x) + (0.05 + 0.12 * x) * stream.normal(size=150)).astype(np.float32)
    target = Regression(name="y", loss="quantile")
    net = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
    stepper = torch.optim.Adam(net.parameters(), lr=0.02)
    rows, labels = torch.from_numpy(x[:, None] / 3 - 1), torch.from_numpy(y[:, None])
    for _ in range(500):
        stepper.zero_grad()
        target.loss_of(net(rows), labels).backward()
        stepper.step()
    said = target.read(net(rows).detach(), torch.zeros(1), torch.ones(1))
    if said.quantiles is None:
        raise TypeError("a head of quantiles says them")
    low, middle, high = said.quantiles[:, 0].T.numpy()
    axes.plot(x, y, ".", color=INK, markersize=1.5, alpha=0.5)
    axes.fill_between(x, low, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(x, middle, color=BLUE, linewidth=1.6)
    axes.set(xlabel="x", ylabel="y")
    axes.set_title(f"{np.mean((y >= low) & (y <= high)):.0%} between .05 and .95")


def draw(figure: Figure) -> None:
    """Both, side by side."""
    figure.set_size_inches(7.6, 3.3)
    left, right = figure.subplots(1, 2)
    losses(left)
    quantiles(right)
