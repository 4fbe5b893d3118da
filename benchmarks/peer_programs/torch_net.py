"""The perceptron of the peers that are built on torch."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn


class Net(nn.Sequential):
    """Linear, ReLU and dropout for each hidden layer, and a linear head."""

    def __init__(self, widths: Sequence[int], rate: float) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after), nn.ReLU(), *([nn.Dropout(rate)] if rate else [])]
        super().__init__(*layers, nn.Linear(widths[-2], widths[-1]))


def scores(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """What the net says of rows in evaluation mode."""
    net.eval()
    with torch.no_grad():
        said: np.ndarray = net(torch.from_numpy(x)).numpy()
    return said
