"""What every network is made of, and the legend of shape suffixes.

N examples, C channels or classes, H W height and width, F features, D outputs, K members, S samples, M = K S networks asked.

Layers work for one member and for a stack of K: the parameters of a stack have the members as their leading axis, and so do
the features [K, N, F] that it computes. Features without that axis are the same for all members.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import Conflict
from service.onnx.graph import Graph


class LayerInfo(NamedTuple):
    """A named layer: what it is, the shape of its output for one row, and its parameters."""

    name: str
    type: str
    shape: tuple[int, ...]
    parameters: int


@runtime_checkable
class Exported(Protocol):
    """A layer that can be written as ONNX."""

    def exported(self, graph: Graph, x: str) -> str:
        """The operators of `forward` in evaluation, of one network; the name of what they give."""
        ...


def exported(layer: nn.Module, graph: Graph, x: str) -> str:
    """A layer's operators; raises Conflict where it has none."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            x = exported(part, graph, x)
        return x
    if not isinstance(layer, Exported):
        raise Conflict("not-exportable", f"This release does not write layers of the kind {type(layer).__name__} as ONNX.")
    return layer.exported(graph, x)


def held(graph: Graph, *tensors: Tensor | None) -> list[str]:
    """Tensors as constants, those that are there."""
    return [graph.constant(tensor.detach().cpu().numpy()) for tensor in tensors if tensor is not None]


class Sharing(NamedTuple):
    """Parameters that sharing spares a network."""

    saved_by_tying: int
    """How many more there would be, were none used by two layers."""
    unshared: int
    """How many there would be, were none used twice: not by two layers, not at two places of space or steps of time either."""
    saved_by_sharing: int
    """How many of these there are not."""


def initialize(layer: nn.Linear | nn.Conv1d | nn.Conv2d, how: str, generator: torch.Generator) -> None:
    """Set a layer's weights: `torch` as nn.Linear does, `he` (He 2015) or `glorot` (2010) with zero biases."""
    with torch.no_grad():
        if how == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        elif how == "glorot":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        if layer.bias is not None:
            fan_in = layer.weight[0].numel()
            bound = fan_in**-0.5 if how == "torch" and fan_in else 0.0
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


class Linear(nn.Linear):
    """nn.Linear whose weights are unset memory until `initialize` or a load sets them; of a stack [K, outputs, inputs]."""

    def reset_parameters(self) -> None:
        """Nothing: torch would draw weights here, from its global generator."""

    def forward(self, x: Tensor) -> Tensor:
        """[.., N, outputs]; of a stack [K, .., N, outputs], from [N, inputs] for all members or [K, .., N, inputs]."""
        return self.through(x, self.weight)

    def through(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same through other weights of the same shape."""
        if weight.ndim == 2:
            return F.linear(x, weight, self.bias)
        members, outputs, _ = weight.shape
        if x.ndim == 2 and weight.is_contiguous():  # one product for all members
            wide = F.linear(x, weight.flatten(0, 1), None if self.bias is None else self.bias.flatten())
            return wide.view(len(x), members, outputs).transpose(0, 1)
        rows, turned = x.expand(members, *x.shape) if x.ndim == 2 else x.flatten(1, -2), weight.mT
        if members == outputs == 1:
            product = self._only(rows, turned)
            return product if x.ndim <= 3 else product.view(*x.shape[:-1], 1)
        product = torch.bmm(rows, turned) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, turned)
        return product if x.ndim <= 3 else product.view(*x.shape[:-1], outputs)

    def exported(self, graph: Graph, x: str) -> str:
        """[N, outputs] of [N, inputs]."""
        return graph.add("Gemm", x, *held(graph, self.weight, self.bias), transB=1)

    def _only(self, rows: Tensor, weight: Tensor) -> Tensor:
        """One column of the only member that is left, beside a copy of itself: alone it is another kernel's, which rounds otherwise."""
        rows, weight = rows.expand(2, -1, -1), weight.expand(2, -1, -1)
        return (torch.bmm(rows, weight) if self.bias is None else torch.baddbmm(self.bias.expand(2, 1, 1), rows, weight))[:1]


class BatchNorm(nn.BatchNorm1d):
    """nn.BatchNorm1d of features [.., N, F], whose gains and statistics are [K, F] in a stack.

    A batch of one row has no variance of its own and takes the running statistics, as a frozen layer does.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        # Running statistics move by a fixed momentum, so that the count of batches is of no use.
        self.num_batches_tracked = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized features of the same shape; of a stack [K, .., N, F], also from [N, F] for all members."""
        if self.weight.ndim == 1:
            return self._normalized(x.flatten(0, -2)).view_as(x)
        x = x if x.ndim > 2 else x.expand(len(self.weight), *x.shape)
        side_by_side = x.flatten(1, -2).transpose(0, 1)  # [N, K, F]: a member's features are channels of their own
        normed = self._normalized(side_by_side.flatten(1)).view_as(side_by_side)
        return normed.transpose(0, 1).view(x.shape)

    def exported(self, graph: Graph, x: str) -> str:
        """Normalized features [N, C, ..]."""
        return graph.add(
            "BatchNormalization", x, *held(graph, self.weight, self.bias, self.running_mean, self.running_var), epsilon=self.eps
        )

    def _normalized(self, x: Tensor) -> Tensor:
        learns = self.training and len(x) > 1 and self.weight.requires_grad
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise TypeError("running statistics are kept")
        mean, variance = self.running_mean.view(-1), self.running_var.view(-1)
        return F.batch_norm(
            x, mean, variance, self.weight.view(-1), self.bias.view(-1), training=learns, momentum=self.momentum, eps=self.eps
        )


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm of features [.., F] (Ba et al. 2016, "Layer normalization"), whose gains are [K, F] in a stack."""

    def __init__(self, features: int) -> None:
        super().__init__(features)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized features of the same shape; of a stack [K, .., N, F], also from [N, F] for all members."""
        if self.weight.ndim == 1:
            return super().forward(x)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        each = (len(self.weight), *(1,) * (max(x.ndim, 3) - 2), -1)
        return normed * self.weight.view(each) + self.bias.view(each)

    def exported(self, graph: Graph, x: str) -> str:
        """Normalized features [.., F]."""
        return graph.add("LayerNormalization", x, *held(graph, self.weight, self.bias), axis=-1, epsilon=self.eps)


def linear(inputs: int, outputs: int, *, bias: bool, how: str, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer from its own generator; without one it stays unset, for weights to be loaded into."""
    layer = Linear(inputs, outputs, bias=bias)
    if generator is not None:
        initialize(layer, how, generator)
    return layer


class Transposed(nn.Module):
    """A linear layer with the transposed weights of another and a bias of its own; they stay that layer's parameter."""

    def __init__(self, source: nn.Linear, generator: torch.Generator | None) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple, lest its parameters count twice
        self.out_features = source.in_features
        self.bias = nn.Parameter(torch.empty(source.in_features))
        if generator is not None:
            bound = source.out_features**-0.5
            with torch.no_grad():
                nn.init.uniform_(self.bias, -bound, bound, generator=generator)

    @property
    def shared(self) -> int:
        """Weights that another layer holds for it."""
        return self._source[0].weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[.., N, outputs]; of a stack [K, .., N, outputs] from [K, .., N, inputs]."""
        weight = self._source[0].weight
        if weight.ndim == 2:
            return F.linear(x, weight.mT, self.bias)
        rows = x.flatten(1, -2)
        return torch.baddbmm(self.bias.unsqueeze(1), rows, weight).view(*x.shape[:-1], self.out_features)

    def exported(self, graph: Graph, x: str) -> str:
        """[N, outputs] of [N, inputs]."""
        return graph.add("Gemm", x, *held(graph, self._source[0].weight, self.bias))
