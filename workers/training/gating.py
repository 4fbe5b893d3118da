"""The gates of a run's layers: drawn before each step from the members' own streams, their gradient taken after it.

Autograd sees y = V x with V = W z alone, whose products are those of a layer without gates, and gives dL/dV; from there
dL/dW = z dL/dV, and dL/dz is the sum over the outputs of W dL/dV. What leads from gates to logits is written out.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.nets.gates import Gated
from service.nets.network import Network
from service.tricks.gate_kernels import draw_gates, pass_back
from service.tricks.sparsity import HardConcrete


class _Behind:
    """A layer's weights behind its gates, [K, outputs, inputs] and [K, inputs]; one network is a stack of one."""

    def __init__(self, layer: Gated, u: Tensor) -> None:
        self.weight, self.logits = layer.weight, layer.log_alpha
        self.prices = torch.zeros_like(u, memory_format=torch.contiguous_format)
        """What each gate costs while it may be open."""
        self._room = torch.empty_like(layer.weight, memory_format=torch.contiguous_format)
        self._read = layer.folded = self._room.detach().requires_grad_()
        self._hard = HardConcrete(u, self.prices)

    def draw(self) -> None:
        """Fresh gates, and the weights times these."""
        with torch.no_grad():
            z = self._hard.draw(self.logits.view_as(self.prices))
            torch.mul(self.weight, z.view_as(self.logits).unsqueeze(-2), out=self._room)

    def add_gradients(self) -> None:
        """From dL/dV, which is taken away, to the gradients of weights, added to what they have, and of logits."""
        gradient, self._read.grad = self._read.grad, None
        if gradient is None:
            gradient = torch.zeros_like(self._room)
        self.logits.grad = self._passed_back(gradient)
        self.weight.grad = gradient if self.weight.grad is None else self.weight.grad.add_(gradient)

    def _passed_back(self, gradient: Tensor) -> Tensor:
        """The logits' gradient; dL/dV becomes dL/dW."""
        upstream = (gradient * self.weight).sum(-2)
        gradient.mul_(self._hard.z.view_as(self.logits).unsqueeze(-2))
        return self._hard.slope(upstream.view_as(self.prices)).view_as(self.logits)


class _OnCpu(_Behind):
    """The same in two passes over the weights; no number depends on its place, nor on the other members."""

    def __init__(self, layer: Gated, u: Tensor) -> None:
        super().__init__(layer, u)
        self._shape = (len(u), *layer.weight.shape[-2:])
        self._slopes = torch.empty_like(layer.log_alpha)
        kept = (u, self._room.view(self._shape), self._slopes.view(u.shape), self.prices)
        self._drawn, self._folded, self._slopes_of, self._prices = (each.numpy() for each in kept)
        self._u = self._drawn if self._drawn.flags.c_contiguous else np.empty_like(self._prices)
        self._z, self._sigmoids = np.empty_like(self._prices), np.empty((2, *u.shape), self._prices.dtype)
        self._at = (0, 0)
        self._logits = self._weights = self._z

    def draw(self) -> None:
        at = self.logits.data_ptr(), self.weight.data_ptr()
        if at != self._at:  # a run may put them elsewhere
            self._at, self._logits = at, self.logits.detach().view(self._prices.shape).numpy()
            self._weights = self.weight.detach().view(self._shape).numpy()
        if self._u is not self._drawn:
            self._u[:] = self._drawn
        draw_gates(self._u, self._logits, self._weights, self._z, self._sigmoids, self._folded)

    def _passed_back(self, gradient: Tensor) -> Tensor:
        pass_back(gradient.view(self._shape).numpy(), self._weights, self._z, self._sigmoids, self._prices, self._slopes_of)
        return self._slopes


class Gating:
    """The gates of a network or stack, and the last draw."""

    def __init__(self, network: Network) -> None:
        layers = [module for module in network.modules() if isinstance(module, Gated)]
        widths = [layer.in_features for layer in layers]
        like = layers[0].log_alpha.detach()
        u = like.new_full((network.members or 1, sum(widths)), 0.5)
        self._own = u.unbind()
        kind = _OnCpu if like.device.type == "cpu" else _Behind
        self._behind = [kind(layer, u) for layer, u in zip(layers, u.split(widths, 1), strict=True)]
        self._drawn = False

    def charge(self, logits: Sequence[Tensor], price: float, place: int | None) -> None:
        """Let these gates cost that much, those of one member or of all."""
        chosen = {id(each) for each in logits}
        for each in self._behind:
            if id(each.logits) in chosen:
                each.prices[slice(None) if place is None else place] = price

    def draw(self, streams: Sequence[torch.Generator]) -> None:
        """Fresh gates for a step, one for all rows of a member's batch."""
        for own, stream in zip(self._own, streams, strict=True):
            own.uniform_(generator=stream)
        for each in self._behind:
            each.draw()
        self._drawn = True

    def add_gradients(self) -> None:
        """From the gradients of weights times gates to those of weights and of logits, with the price of being open; without autograd."""
        if not self._drawn:
            raise ValueError("gates are drawn before they have a gradient")
        for each in self._behind:
            each.add_gradients()


def gating_of(network: Network) -> Gating | None:
    """The gates of a network, where it has any."""
    return Gating(network) if any(isinstance(module, Gated) for module in network.modules()) else None
