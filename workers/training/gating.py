"""The gates of a run's layers: drawn before each step from the members' own streams, their gradient taken after it.

All gates lie side by side in memory, since on so few numbers a kernel costs its call. Autograd gives each gate's gradient dL/dz, and
what leads from there to its logit is written out, for all of them at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.nets.gates import Gated
from service.nets.network import Network
from service.tricks.sparsity import Opening, opened, price_slope
from workers.training.flat import Flat

_WHOLE = 64
"""Gates of a member are computed in whole vectors: what kernels make of the rest would depend on who stands beside it."""


class Gating:
    """The gates of a network or stack, and the last draw: parameters layer by layer, what is computed [members, gates]."""

    def __init__(self, network: Network) -> None:
        self._layers = [module for module in network.modules() if isinstance(module, Gated)]
        self._logits: list[Tensor] = [layer.log_alpha for layer in self._layers]
        self._members, self._widths = network.members or 1, [logits.shape[-1] for logits in self._logits]
        self._flat = Flat(self._logits, multiple=_WHOLE)
        self._gates = sum(self._widths)
        values, rows = self._flat.values, -(-self._gates // _WHOLE) * _WHOLE
        self._uniform = torch.full((self._members, rows), 0.5, device=values.device)
        self._own = list(self._uniform[:, : self._gates].unbind())
        self._prices = torch.zeros_like(self._uniform)
        self._to_members: Tensor | None = None
        self._to_layers: Tensor | None = None
        if self._members > 1:
            self._to_members, self._to_layers = self._orders(rows)
        self._z, self._upstream, self._gradients = (torch.zeros_like(values) for _ in range(3))
        self._views = [self._flat.view(self._gradients, logits) for logits in self._logits]
        self._drawn: Opening | None = None
        for layer in self._layers:
            layer.drawn = self._flat.view(self._z, layer.log_alpha).requires_grad_()
            layer.drawn.grad = self._flat.view(self._upstream, layer.log_alpha)

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
                self._prices[slice(None) if place is None else place, at : at + width] = price
            at += width

    def draw(self, streams: Sequence[torch.Generator]) -> None:
        """Fresh gates for a step, one for all rows of a member's batch."""
        for own, stream in zip(self._own, streams, strict=True):
            own.uniform_(generator=stream)
        alone = self._z.view(1, -1) if self._to_layers is None else None
        self._drawn = opened(self._by_member(self._flat.values), self._uniform, out=alone)
        if alone is None:
            self._z.copy_(self._by_layer(self._drawn.z))
        self._upstream.zero_()

    def add_gradients(self) -> None:
        """From the gates' gradients to those of their logits, with the price of being open; without autograd."""
        if self._drawn is None:
            raise ValueError("gates are drawn before they have a gradient")
        found = self._drawn.slope(self._by_member(self._upstream))
        price = price_slope(self._by_member(self._flat.values), self._prices)
        torch.add(self._by_layer(found), self._by_layer(price), out=self._gradients)
        for logits, gradient in zip(self._logits, self._views, strict=True):
            logits.grad = gradient

    def _by_member(self, flat: Tensor) -> Tensor:
        return flat.view(1, -1) if self._to_members is None else flat[self._to_members]

    def _by_layer(self, rows: Tensor) -> Tensor:
        return rows.view(-1) if self._to_layers is None else rows.view(-1)[self._to_layers]


def gating_of(network: Network) -> Gating | None:
    """The gates of a network, where it has any."""
    return Gating(network) if any(isinstance(module, Gated) for module in network.modules()) else None
