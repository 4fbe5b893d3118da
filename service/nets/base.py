"""What every network is made of, and the legend of shape suffixes.

N examples, C channels or classes, H W height and width, F features, D outputs, K members, S samples, M = K S networks asked.
"""

from typing import NamedTuple

import torch
from torch import nn


class LayerInfo(NamedTuple):
    """A named layer: what it is, the shape of its output for one row, and its parameters."""

    name: str
    type: str
    shape: tuple[int, ...]
    parameters: int


def initialize(layer: nn.Linear, how: str, generator: torch.Generator) -> None:
    """Set a layer's weights: `torch` as nn.Linear does, `he` (He 2015) or `glorot` (2010) with zero biases."""
    with torch.no_grad():
        if how == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        elif how == "glorot":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        if layer.bias is not None:
            bound = layer.in_features**-0.5 if how == "torch" and layer.in_features else 0.0
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


class Linear(nn.Linear):
    """nn.Linear whose weights are unset memory until `initialize` or a load sets them."""

    def reset_parameters(self) -> None:
        """Nothing: torch would draw weights here, from its global generator."""


def linear(inputs: int, outputs: int, *, bias: bool, how: str, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer from its own generator; without one it stays unset, for weights to be loaded into."""
    layer = Linear(inputs, outputs, bias=bias)
    if generator is not None:
        initialize(layer, how, generator)
    return layer
