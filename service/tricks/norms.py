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

    def sample(self, like: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        """A perturbation uniform in the ball."""
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

    def sample(self, like: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        return (torch.rand(like.shape, generator=generator, device=like.device) * 2 - 1) * epsilon


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

    def sample(self, like: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        direction = torch.randn(like.shape, generator=generator, device=like.device)
        radius = torch.rand(len(like), generator=generator, device=like.device) ** (1 / direction[0].numel())
        return direction * rows(epsilon * radius / self.length(direction), direction)


NORMS: dict[NormName, Norm] = {"linf": Linf(), "l2": L2()}
