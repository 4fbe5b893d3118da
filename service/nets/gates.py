"""A linear layer behind gates: its inputs are multiplied by hard concrete variables that it learns."""

import math

import torch
from torch import Tensor, nn

from service.nets.base import Linear
from service.tricks.sparsity import deterministic

_JITTER = 1e-2
"""Standard deviation of what tells the gates apart in the beginning."""


class Gated(Linear):
    """A linear layer that reads x times gates [inputs]; of a stack [K, inputs].

    In training the gates are those that were drawn for the step, multiplied into a copy of the weights: `folded`, to autograd a leaf
    of its own. Else they are deterministic.
    """

    log_alpha: nn.Parameter

    def __init__(self, inner: nn.Linear, drop: float, generator: torch.Generator | None) -> None:
        super().__init__(inner.in_features, inner.out_features, bias=inner.bias is not None)
        self.weight, self.bias = inner.weight, inner.bias
        self.log_alpha = nn.Parameter(torch.empty(inner.in_features))
        self.folded: Tensor | None = None
        if generator is not None:
            with torch.no_grad():
                self.log_alpha.normal_(math.log((1 - drop) / drop), _JITTER, generator=generator)

    @property
    def effective(self) -> Tensor:
        """The weights times the gates in force."""
        if self.training and self.folded is not None:
            return self.folded
        return self.weight * deterministic(self.log_alpha).unsqueeze(-2)

    def forward(self, x: Tensor) -> Tensor:
        """As a linear layer's."""
        if self.training and self.folded is not None:
            return self.through(x, self.folded)
        z = deterministic(self.log_alpha)
        return super().forward(x * (z if z.ndim == 1 else z.view(len(z), *[1] * (max(x.ndim, 3) - 2), -1)))


def plain(layer: Gated) -> Linear:
    """The same without gates, once they are deterministic: they are factors on the columns of the weights."""
    folded = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    folded.weight = nn.Parameter((layer.weight * deterministic(layer.log_alpha)).detach(), requires_grad=layer.weight.requires_grad)
    folded.bias = layer.bias
    return folded
