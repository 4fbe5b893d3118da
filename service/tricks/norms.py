"""Norms of a perturbation: its length, its steepest direction, its ball."""

from typing import Literal, Protocol

import torch
from torch import Tensor

NormName = Literal["linf", "l2"]


class Norm(Protocol):
    """What an attack needs to know of a norm; all tensors are [N, ...] and lengths [N]."""

    def length(self, delta: Tensor) -> Tensor:
        """The norm of each row's perturbation."""
        ...

    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of length 1 that raises the loss most to first order; 0 where the gradient is 0."""
        ...

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """The nearest perturbation no longer than epsilon."""
        ...

    def sample(self, like: Tensor, epsilon: float, generator: torch.Generator, movable: Tensor | None = None) -> Tensor:
        """A perturbation uniform in the ball of the entries that may move (None: all)."""
        ...


def rows(values: Tensor, like: Tensor) -> Tensor:
    """Numbers [N] broadcast against [N, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Linf:
    """The largest change of any entry."""

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        return delta.clamp(-epsilon, epsilon)

    def sample(self, like: Tensor, epsilon: float, generator: torch.Generator, movable: Tensor | None = None) -> Tensor:
        noise = (torch.rand(like.shape, generator=generator, device=like.device) * 2 - 1) * epsilon
        return noise if movable is None else noise * movable


class L2:
    """Euclidean length."""

    def length(self, delta: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def direction(self, gradient: Tensor) -> Tensor:
        # Divide by the largest entry first: squares of tiny gradients underflow in float32.
        scaled = gradient / rows(gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
        return scaled / rows(self.length(scaled).clamp(min=1e-12), scaled)

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        length = self.length(delta)
        return delta * rows(torch.where(length > epsilon, epsilon / length.clamp(min=1e-30), torch.ones_like(length)), delta)

    def sample(self, like: Tensor, epsilon: float, generator: torch.Generator, movable: Tensor | None = None) -> Tensor:
        direction = torch.randn(like.shape, generator=generator, device=like.device)
        free = direction[0].numel() if movable is None else int(movable.expand(like.shape[1:]).count_nonzero())
        if movable is not None:
            direction = direction * movable
        radius = torch.rand(len(like), generator=generator, device=like.device) ** (1 / max(free, 1))
        return direction * rows(epsilon * radius / self.length(direction).clamp(min=1e-30), direction)


NORMS: dict[NormName, Norm] = {"linf": Linf(), "l2": L2()}
