"""The square attack: random search on the margin alone, without a gradient (Andriushchenko et al. 2020)."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.norms import rows
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, value_of

SHARE = 0.8
"""Of the entries that the first windows cover."""
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the windows' share halves (ibid., section 3)."""


def share(query: int, queries: int) -> float:
    """The share of the entries that a window covers at a query."""
    return float(SHARE / 2 ** sum(query > mark * queries for mark in HALVINGS))


class Square(Perturbation):
    """Random search on scores alone: what resists it as little as a gradient hides no gradient.

    linf: a window of entries goes to +-epsilon. l2, l1: a window takes the length that a second one and the rest of the
    ball leave to it, in a random direction. Windows are squares of an image, and any entries of a table.
    """

    type: Literal["square"] = "square"
    """Random search without gradients."""
    queries: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    """Points that are tried per row."""

    @property
    def passes(self) -> int:
        return self.queries + 2

    @torch.no_grad()
    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """The first point that breaks a row, else the one with the largest margin."""
        generator, loss_of = self.generator(x), loss_of.under("margin")
        signs = _signs(x.shape, generator, x)
        result = x.clone()
        alive = (~value_of(x, loss_of)[1]).nonzero().squeeze(1)
        if not len(alive):
            return Attacked(result)
        origin, loss = x[alive], loss_of.only(alive)
        best = box.apply(origin, self.stretched(box.free(signs[alive])))
        values, broken = value_of(best, loss)
        for query in range(1, self.queries + 1):
            if bool(broken.any()):
                result[alive[broken]] = best[broken]
                standing = (~broken).nonzero().squeeze(1)
                alive, origin, best, values, loss = alive[standing], origin[standing], best[standing], values[standing], loss.only(standing)
            if not len(alive) or query == self.queries:
                break
            moved = box.apply(origin, self._proposal(best - origin, share(query, self.queries), generator, box))
            found, broken = value_of(moved, loss)
            better = (found > values) | broken
            best, values = torch.where(rows(better, best), moved, best), torch.where(better, found, values)
        result[alive] = best
        return Attacked(result)

    def _proposal(self, delta: Tensor, covered: float, generator: torch.Generator, box: Box) -> Tensor:
        """A perturbation in the ball that differs from the last one within one window, or two."""
        window = _windows(delta, covered, generator)
        # One sign per window, and per channel of [N, H, W, C].
        signs = _signs(delta.shape if delta.ndim < 3 else (len(delta), 1, 1, *delta.shape[3:]), generator, delta)
        if self.norm == "linf":
            return torch.where(window, signs * self.epsilon, delta)
        emptied = delta.masked_fill(window | _windows(delta, covered, generator), 0.0)
        pattern = box.free(torch.rand(delta.shape, generator=generator, device=delta.device).to(delta.dtype) * signs * window)
        rest, length, power = self.ball.length(emptied), self.ball.length(pattern), 2.0 if self.norm == "l2" else 1.0
        left = (self.epsilon**power - rest**power).clamp(min=0) ** (1 / power)
        moved = emptied + pattern * rows(left / torch.where(length > 0, length, torch.ones_like(length)), pattern)
        return self.ball.project(moved, self.epsilon)


def _signs(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _windows(like: Tensor, covered: float, generator: torch.Generator) -> Tensor:
    """A window per row, as booleans that broadcast against [N, ...]: a square of an image's two sides, else any entries."""
    if like.ndim < 3:
        count = max(1, round(covered * like.shape[1]))
        order = torch.rand(like.shape, generator=generator, device=like.device)
        return order <= order.kthvalue(count, dim=1, keepdim=True).values
    inside = torch.ones(1, dtype=torch.bool, device=like.device)
    area = like.shape[1] * like.shape[2]
    for axis in (1, 2):
        extent = like.shape[axis]
        side = max(1, min(round(math.sqrt(covered * area)), extent))
        first = torch.randint(0, extent - side + 1, (len(like),), generator=generator, device=like.device)
        places = torch.arange(extent, device=like.device).view([-1 if i == axis else 1 for i in range(like.ndim)])
        inside = inside & (places >= rows(first, like)) & (places < rows(first + side, like))
    return inside
