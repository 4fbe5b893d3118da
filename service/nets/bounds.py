"""What a network may say anywhere in a box of rows: intervals through every layer, the last one merged into the differences of classes."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from service.nets import forms
from service.nets.gates import Gated
from service.nets.intervals import Interval
from service.nets.network import Network
from service.tricks.multitask import Target

Labels = Mapping[str, Tensor]


def bounds(network: Network, box: Interval) -> dict[str, Interval]:
    """Intervals of the raw outputs by target, the network as it is served; raises Unbounded where a layer has none.

    A box of radius 0 gives the outputs bit by bit; those of recurrent cells up to rounding.
    """
    return cast("dict[str, Interval]", network(cast(Tensor, box)))


def features(network: Network, box: Interval) -> Interval:
    """Intervals [.., N, F] of what the heads read; raises Unbounded where a layer has none."""
    return cast(Interval, network.code(cast(Tensor, box)))


def margins(network: Network, target: Target, read: Interval, labels: Tensor) -> Tensor:
    """Lower bounds [.., N, C] of z_y - z_c for classes y = `labels` [.., N], of what its head makes of features; 0 for c = y.

    The last layer is elided (Gowal et al. 2018, section 3.1): it bounds the difference w_y - w_c times the features, not both logits.
    """
    head = forms.linear_of(network.layers()[f"head.{target.name}"])
    weight = head.effective if isinstance(head, Gated) else head.weight
    apart = torch.take_along_dim(weight, labels.unsqueeze(-1), -2).unsqueeze(-2) - weight.unsqueeze(-3)
    center, radius = (part.unsqueeze(-1) for part in (read.center, read.radius))
    lower = (apart @ center - apart.abs() @ radius).squeeze(-1)
    if head.bias is not None:
        lower = lower + torch.take_along_dim(head.bias, labels, -1).unsqueeze(-1) - head.bias.unsqueeze(-2)
    return lower * network.spec.architecture.logit_factor


def worst(network: Network, box: Interval, labels: Labels) -> dict[str, Tensor]:
    """Raw outputs by target that are at least as bad for the labels as any that the box reaches.

    Of classes the negative margins, of numbers the end of their interval that lies farther from the label. Missing labels count
    as class 0; whoever takes the loss leaves them out.
    """
    read, found = features(network, box), dict[str, Tensor]()
    for target, head in zip(network.spec.targets, network.heads, strict=True):
        truth = labels[target.name]
        if target.says == "classes":
            found[target.name] = -margins(network, target, read, truth.clamp(min=0))
        else:
            said = cast(Interval, network.finished(target, head(read)))
            found[target.name] = torch.where((said.high - truth).abs() > (said.low - truth).abs(), said.high, said.low)
    return found


def pairwise(network: Network, target: Target, read: Interval) -> Tensor:
    """Lower bounds [.., N, C, C] of z_k - z_c for every pair of classes k, c."""
    classes = range(network.spec.widths[network.spec.targets.index(target)])
    each = [margins(network, target, read, torch.full(read.shape[:-1], k, device=read.center.device)) for k in classes]
    return torch.stack(each, dim=-2)
