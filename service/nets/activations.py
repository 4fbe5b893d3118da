"""Functions between layers, and where a bounded one is so flat that little gets through it."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from service.onnx.graph import Graph

ActivationName = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
OPERATORS = {"relu": "Relu", "elu": "Elu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
"""Those that ONNX has as they are."""
SEES_INPUTS = ("leaky_relu", "elu", "gelu", "silu")
"""Those whose slope is taken at what they were given, which is kept for it beside what they gave."""
BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
"""The ends of the activations that have two."""
OUTER = 0.05
"""Share of an activation's range at each end that counts as saturated: its slope there is below a fifth of its steepest."""


def exported_activation(activation: str, graph: Graph, x: str) -> str:
    """The operators of an activation."""
    if activation == "identity":
        return x
    if activation == "leaky_relu":
        return graph.add("LeakyRelu", x, alpha=0.01)
    if activation == "silu":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if activation == "gelu":  # x Phi(x)
        share = graph.add("Erf", graph.add("Mul", x, graph.real(0.5**0.5)))
        return graph.add("Mul", graph.add("Mul", x, graph.real(0.5)), graph.add("Add", share, graph.real(1.0)))
    return graph.add(OPERATORS[activation], x)


def saturated(activation: str, outputs: Tensor) -> Tensor | None:
    """Which outputs lie in the outer twentieth at either end of the activation's range; None for an activation without ends."""
    if activation not in BOUNDS:
        return None
    low, high = BOUNDS[activation]
    margin = OUTER * (high - low)
    return (outputs < low + margin) | (outputs > high - margin)


def dead(low: Tensor, high: Tensor) -> Tensor:
    """Units [F] whose least and largest outputs over all rows are the same, up to rounding: nothing of a row gets through them."""
    return high - low <= torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())
