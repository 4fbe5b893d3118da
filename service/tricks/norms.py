"""Norms of a perturbation: its length, its steepest direction, its ball, and the shortest way to a hyperplane."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from service.tricks.draws import Draws

NormName = Literal["linf", "l2", "l1"]


class Norm(Protocol):
    """What an attack needs to know of a norm; all tensors are [N, ...] and lengths [N]."""

    sparse: bool
    """Whether the steepest direction is a single entry, so that entries at their bound have to be left out of it."""

    straight: bool
    """Whether its ball is a box, so that projections into a ball and into bounds are one."""

    def length(self, delta: Tensor) -> Tensor:
        """The norm of each row's perturbation."""
        ...

    def dual(self, gradient: Tensor) -> Tensor:
        """The dual norm of each row's gradient: how much a perturbation of length 1 raises the loss to first order."""
        ...

    def direction(self, gradient: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The perturbation of length 1 that raises the loss most to first order; 0 where the gradient is 0. `out` may be overwritten."""
        ...

    def project(self, delta: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
        """The nearest perturbation no longer than epsilon (l1, l2: in Euclidean distance). `out` may be overwritten, also delta itself."""
        ...

    def sample(self, like: Tensor, epsilon: float, draws: Draws, movable: Tensor | None = None) -> Tensor:
        """A perturbation uniform in the ball of the entries that may move (None: all)."""
        ...

    def reach(self, slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
        """The shortest way d >= 0 with slope d = needed [N] and d <= room; all [N, F] and >= 0. Where there is none, d = room."""
        ...


def rows(values: Tensor, like: Tensor) -> Tensor:
    """Numbers [N] broadcast against [N, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Linf:
    """The largest change of any entry."""

    sparse = False
    straight = True

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def direction(self, gradient: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.sign(gradient, out=out)

    def project(self, delta: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
        return torch.clamp(delta, -epsilon, epsilon, out=out)

    def sample(self, like: Tensor, epsilon: float, draws: Draws, movable: Tensor | None = None) -> Tensor:
        noise = draws.uniform(like.shape, -epsilon, epsilon)
        return noise if movable is None else noise * movable

    def reach(self, slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
        return _filled(slope, torch.ones_like(slope), room, needed)


class L2:
    """Euclidean length."""

    sparse = False
    straight = False

    def length(self, delta: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def dual(self, gradient: Tensor) -> Tensor:
        return self.length(gradient)

    def direction(self, gradient: Tensor, *, out: Tensor | None = None) -> Tensor:
        # Divide by the largest entry first: squares of tiny gradients underflow in float32.
        scaled = gradient / rows(gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
        return scaled / rows(self.length(scaled).clamp(min=1e-12), scaled)

    def project(self, delta: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
        length = self.length(delta)
        return delta * rows(torch.where(length > epsilon, epsilon / length.clamp(min=1e-30), torch.ones_like(length)), delta)

    def sample(self, like: Tensor, epsilon: float, draws: Draws, movable: Tensor | None = None) -> Tensor:
        direction = draws.normal(like.shape)
        free = direction[0].numel() if movable is None else int(movable.expand(like.shape[1:]).count_nonzero())
        if movable is not None:
            direction = direction * movable
        radius = draws.uniform((len(like),)) ** (1 / max(free, 1))
        return direction * rows(epsilon * radius / self.length(direction).clamp(min=1e-30), direction)

    def reach(self, slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
        return _filled(slope, slope, room, needed)


class L1:
    """The sum of all changes; its steepest direction is the one entry with the largest slope."""

    sparse = True
    straight = False

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    def direction(self, gradient: Tensor, *, out: Tensor | None = None) -> Tensor:
        flat = gradient.flatten(1)
        place = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).view_as(gradient)

    def project(self, delta: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
        # The shrinkage that leaves a length of epsilon is found among the sorted entries (Duchi et al. 2008, figure 1).
        flat = delta.flatten(1).abs()
        ordered = flat.sort(1, descending=True).values
        excess = (ordered.cumsum(1) - epsilon) / torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype, device=flat.device)
        kept = (ordered > excess).sum(1, keepdim=True).clamp(min=1)
        shrunk = (flat - excess.gather(1, kept - 1)).clamp(min=0)
        # Rounding in the sums must not leave the ball.
        shrunk = shrunk * (epsilon / shrunk.sum(1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
        inside = flat.sum(1, keepdim=True) <= epsilon
        return torch.where(inside, delta.flatten(1), delta.flatten(1).sign() * shrunk).view_as(delta)

    def sample(self, like: Tensor, epsilon: float, draws: Draws, movable: Tensor | None = None) -> Tensor:
        # Exponentials over their sum and one more are uniform in the simplex; signs make the ball of it.
        sizes = -draws.uniform(like.shape).clamp(min=1e-30).log()
        signs = draws.signs(like.shape)
        sizes = sizes if movable is None else sizes * movable
        spare = -draws.uniform((len(like),)).clamp(min=1e-30).log()
        return signs * sizes * rows(epsilon / (self.length(sizes) + spare).clamp(min=1e-30), like)

    def reach(self, slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
        # The steepest entries first, each to its bound.
        order = slope.argsort(1, descending=True)
        steep, wide = slope.gather(1, order), room.gather(1, order)
        before = (steep * wide).cumsum(1) - steep * wide
        left = (needed.unsqueeze(1) - before).clamp(min=0) / steep.clamp(min=torch.finfo(slope.dtype).tiny)
        return torch.zeros_like(slope).scatter(1, order, torch.minimum(left, wide))


def _filled(slope: Tensor, pace: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """d = min(t pace, room) with slope d = needed: entries grow at their pace, and those that are full stand still."""
    full_at, order = (room / pace.clamp(min=torch.finfo(slope.dtype).tiny)).sort(1)
    gains, growth = (slope * room).gather(1, order), (slope * pace).gather(1, order)
    before = gains.cumsum(1) - gains
    rate = growth.flip(1).cumsum(1).flip(1)
    # Of the candidate times, one per number of entries that are full, the first that is not beyond the next one's filling.
    times = (needed.unsqueeze(1) - before).clamp(min=0) / rate.clamp(min=torch.finfo(slope.dtype).tiny)
    fits = times <= full_at
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    time = torch.where(fits.any(1, keepdim=True), times.gather(1, first), full_at[:, -1:])
    return torch.minimum(time * pace, room)


NORMS: dict[NormName, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}
