"""The gates of a run's layers: drawn before each step from the members' own streams, their gradient taken after it.

All gates lie side by side in memory, since on so few numbers a kernel costs its call. Autograd sees y = V x with V = W z alone, whose
products are those of a layer without gates, and gives dL/dV; from there dL/dW = z dL/dV, and dL/dz is the sum over the outputs of
W dL/dV. What leads from gates to logits is written out, for all of them at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.nets.gates import Gated
from service.nets.network import Network
from service.tricks.sparsity import HardConcrete
from workers.training.flat import Flat

_WHOLE = 64
"""Gates of a member are computed in whole vectors: what kernels make of the rest would depend on who stands beside it."""


class _Behind(NamedTuple):
    """Weights behind gates: the parameter, the leaf that is read instead, its memory, and places for gates and their gradients."""

    weight: Tensor
    folded: Tensor
    room: Tensor
    z: Tensor
    upstream: Tensor

    def pass_on(self) -> None:
        """dL/dV to the weights, added to what they have, and to the gates; V itself is overwritten."""
        gradient = self.folded.grad
        if gradient is None:
            self.upstream.zero_()
            return
        torch.sum(torch.mul(gradient, self.weight, out=self.room), -2, out=self.upstream)
        if self.weight.requires_grad:
            own = gradient.mul_(self.z)
            self.weight.grad = own if self.weight.grad is None else self.weight.grad.add_(own)
        self.folded.grad = None


class Gating:
    """The gates of a network or stack, and the last draw: parameters layer by layer, what is computed [members, gates]."""

    def __init__(self, network: Network) -> None:
        self._layers = [module for module in network.modules() if isinstance(module, Gated)]
        self._logits: list[Tensor] = [layer.log_alpha for layer in self._layers]
        self._members, self._widths = network.members or 1, [logits.shape[-1] for logits in self._logits]
        self._flat = Flat(self._logits, multiple=_WHOLE)
        self._gates = sum(self._widths)
        values, rows = self._flat.values, -(-self._gates // _WHOLE) * _WHOLE
        self._hard = HardConcrete(torch.empty((self._members, rows), device=values.device))
        self._own = list(self._hard.u[:, : self._gates].unbind())
        self._to_members: Tensor | None = None
        self._to_layers: Tensor | None = None
        if self._members > 1:
            self._to_members, self._to_layers = self._orders(rows)
        self._z, self._upstream, self._gradients = (torch.zeros_like(values) for _ in range(3))
        if self._to_layers is None:
            self._z = self._hard.z.view(-1)
        self._views = [self._flat.view(self._gradients, logits) for logits in self._logits]
        self._behind = [self._fold(layer) for layer in self._layers]
        self._drawn = False

    def _fold(self, layer: Gated) -> "_Behind":
        """Give a layer the memory of its weights times gates."""
        folded = torch.empty_like(layer.weight, memory_format=torch.contiguous_format)
        layer.folded = folded.detach().requires_grad_()
        z, upstream = (self._flat.view(whole, layer.log_alpha) for whole in (self._z, self._upstream))
        return _Behind(layer.weight, layer.folded, folded, z.unsqueeze(-2), upstream)

    def _orders(self, rows: int) -> tuple[Tensor, Tensor]:
        """Where each member's gates are among the layers', and the other way round; what is left over goes to the first."""
        by_layer = torch.zeros((self._members, rows), dtype=torch.int64)
        by_member = torch.zeros(len(self._flat.values), dtype=torch.int64)
        start, place = 0, 0
        for width in self._widths:
            here = torch.arange(start, start + self._members * width).view(self._members, width)
            by_layer[:, place : place + width] = here
            there = torch.arange(self._members).view(-1, 1) * rows + torch.arange(place, place + width)
            by_member[start : start + self._members * width] = there.view(-1)
            start, place = start + self._members * width, place + width
        device = self._flat.values.device
        return by_layer.to(device), by_member.to(device)

    def charge(self, logits: Sequence[Tensor], price: float, place: int | None) -> None:
        """Let these gates cost that much, those of one member or of all."""
        chosen, at = {id(each) for each in logits}, 0
        for each, width in zip(self._logits, self._widths, strict=True):
            if id(each) in chosen:
                self._hard.prices[slice(None) if place is None else place, at : at + width] = price
            at += width

    @torch.no_grad()
    def draw(self, streams: Sequence[torch.Generator]) -> None:
        """Fresh gates for a step, one for all rows of a member's batch."""
        for own, stream in zip(self._own, streams, strict=True):
            own.uniform_(generator=stream)
        z = self._hard.draw(self._by_member(self._flat.values))
        if self._to_layers is not None:
            self._z.copy_(self._by_layer(z))
        for each in self._behind:
            torch.mul(each.weight, each.z, out=each.room)
        self._drawn = True

    def add_gradients(self) -> None:
        """From the gradients of weights times gates to those of weights and of logits, with the price of being open; without autograd."""
        if not self._drawn:
            raise ValueError("gates are drawn before they have a gradient")
        for each in self._behind:
            each.pass_on()
        alone = self._gradients.view(1, -1) if self._to_layers is None else None
        found = self._hard.slope(self._by_member(self._upstream), out=alone)
        if alone is None:
            self._gradients.copy_(self._by_layer(found))
        for logits, gradient in zip(self._logits, self._views, strict=True):
            logits.grad = gradient

    def _by_member(self, flat: Tensor) -> Tensor:
        return flat.view(1, -1) if self._to_members is None else flat[self._to_members]

    def _by_layer(self, rows: Tensor) -> Tensor:
        return rows.view(-1) if self._to_layers is None else rows.view(-1)[self._to_layers]


def gating_of(network: Network) -> Gating | None:
    """The gates of a network, where it has any."""
    return Gating(network) if any(isinstance(module, Gated) for module in network.modules()) else None
