"""What tricks make of a network's layers before it learns: inputs behind gates, one parameter for several layers, layers that stay."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from service.nets.base import Linear, Transposed
from service.nets.gates import Gated
from service.nets.upsampling import TransposedConvolution
from service.tricks.choices import matching
from service.tricks.penalties import Regularizer
from service.tricks.sparsity import L0
from service.tricks.tying import Share

Layers = Mapping[str, nn.Module]
Weighted = Linear | nn.Conv1d | nn.Conv2d


def form(root: nn.Module, layers: Layers, regularizers: Sequence[Regularizer], generator: torch.Generator | None) -> None:
    """Put in the gates, and make layers one; a gate's logit is drawn after all weights, which are those of a net without gates."""
    share(layers, regularizers)
    for penalty in regularizers:
        if isinstance(penalty, L0) and penalty.gated:
            for layer in [layers[name] for name in penalty.over(list(layers))]:
                if not gateable(layer):  # a norm has no inputs to close
                    continue
                inner = linear_of(layer)
                replace(root, inner, Gated(inner, penalty.initial_drop, generator))


def share(layers: Layers, regularizers: Sequence[Regularizer]) -> None:
    """Let layers that are one use the first one's parameters."""
    for penalty in regularizers:
        if isinstance(penalty, Share):
            first, *others = (weighted(layers[name]) for name in penalty.over(list(layers)))
            for other in others:
                other.weight = first.weight
                if penalty.parameters == "all":
                    other.bias = first.bias


def freeze(layers: Layers, patterns: Sequence[str]) -> None:
    """Let the parameters of some layers be what they are."""
    for name in matching(patterns, list(layers)):
        layers[name].requires_grad_(False)


def linear_of(layer: nn.Module) -> Linear:
    """The linear map of a layer that has one."""
    return next(module for module in layer.modules() if isinstance(module, Linear))


def gateable(layer: nn.Module) -> bool:
    """Whether the inputs of a layer are units that gates can close: those of a linear map are, a convolution's are places."""
    return any(isinstance(module, Linear) for module in layer.modules())


def mirrored(root: nn.Module) -> bool:
    """Whether a layer is another's transpose: what closes the one's inputs would not close the other's outputs."""
    return any(module.shared > 0 for module in root.modules() if isinstance(module, Transposed | TransposedConvolution))


def weighted(layer: nn.Module) -> Weighted:
    """The linear map or convolution of a layer that is one."""
    return next(module for module in layer.modules() if isinstance(module, Weighted))


def shareable(layer: nn.Module) -> bool:
    """Whether a layer's weights can be another's as well."""
    return any(isinstance(module, Weighted) for module in layer.modules())


def replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another."""
    path = next(name for name, module in root.named_modules() if module is old)
    place, _, last = path.rpartition(".")
    setattr(root.get_submodule(place), last, new)
