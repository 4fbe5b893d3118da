"""The square attack: random search on the margin alone, without a gradient (Andriushchenko et al. 2020)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.draws import Draws
from service.tricks.norms import rows
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, value_of
from service.tricks.windows import Windows, tiles

SHARE = 0.8
"""Of the entries that the first windows cover."""
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the windows' share halves (ibid., section 3)."""


def share(query: int, queries: int) -> float:
    """The share of the entries that a window covers at a query."""
    return float(SHARE / 2 ** sum(query > mark * queries for mark in HALVINGS))


class Square(Perturbation):
    """Random search on scores alone: what resists it as little as a gradient hides no gradient.

    linf: a window of entries goes to +-epsilon. l2, l1: a window takes the length of its own, of a second one and of what the
    ball has left, and adds a pattern to what lies there: two pyramids of opposite signs in an image, random sizes in a table.
    Windows are squares of an image, and any entries of a table.
    """

    type: Literal["square"] = "square"
    """Random search without gradients."""
    queries: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    """Points that are tried per row."""

    @property
    def passes(self) -> int:
        return self.queries + 2

    @torch.no_grad()
    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """The first point that breaks a row, else the one with the largest margin."""
        draws, loss_of = self.draws(x, numbers), loss_of.under("margin")
        first, result = self._first(x, draws), x.clone()
        alive = (~value_of(x, loss_of)[1]).nonzero().squeeze(1)
        if not len(alive):
            return Attacked(result)
        origin, loss, draws = x[alive], loss_of.only(alive), draws.only(alive)
        best = box.apply(origin, self.stretched(box.free(first[alive])))
        values, broken = value_of(best, loss)
        for query in range(1, self.queries + 1):
            if bool(broken.any()):
                result[alive[broken]] = best[broken]
                standing = (~broken).nonzero().squeeze(1)
                alive, origin, best, values, loss = alive[standing], origin[standing], best[standing], values[standing], loss.only(standing)
                draws = draws.only(standing)
            if not len(alive) or query == self.queries:
                break
            moved = box.apply(origin, self._proposal(best - origin, share(query, self.queries), draws, box))
            found, broken = value_of(moved, loss)
            better = (found > values) | broken
            best, values = torch.where(rows(better, best), moved, best), torch.where(better, found, values)
        result[alive] = best
        return Attacked(result)

    def _first(self, x: Tensor, draws: Draws) -> Tensor:
        """Where the search begins, up to its length: a sign for each entry, or tiles where an image's length is to be shared."""
        return draws.signs(x.shape).to(x.dtype) if self.norm == "linf" or x.ndim < 3 else tiles(x, draws)

    def _proposal(self, delta: Tensor, covered: float, draws: Draws, box: Box) -> Tensor:
        """A perturbation in the ball that differs from the last one within one window, or two."""
        # One sign per window, and per channel of [N, H, W, C].
        each = delta.shape if delta.ndim < 3 else (len(delta), 1, 1, *delta.shape[3:])
        if self.norm == "linf":
            window = _entries(delta, covered, draws) if delta.ndim < 3 else Windows.drawn(delta, covered, draws).inside()
            return torch.where(window, draws.signs(each).to(delta.dtype) * self.epsilon, delta)
        if delta.ndim < 3:
            window, other = (_entries(delta, covered, draws) for _ in range(2))
            pattern = draws.uniform(delta.shape).to(delta.dtype) * window
        else:
            place, second = (Windows.drawn(delta, covered, draws, pyramids=True) for _ in range(2))
            window, other, pattern = place.inside(), second.inside(), place.pyramids(draws)
        pattern = box.free(pattern * draws.signs(each).to(delta.dtype))
        return self._relocated(delta, window, window | other, pattern)

    def _relocated(self, delta: Tensor, window: Tensor, emptied: Tensor, pattern: Tensor) -> Tensor:
        """The length within `emptied`, and what the ball has left, go to the window: there lies what was there plus the pattern.

        Shares are per channel (ibid., algorithm 3); everything is counted in epsilons, lest squares leave float32.
        """
        power = 2 if self.norm == "l2" else 1
        axes = (1, 2) if delta.ndim > 2 else (1,)

        def lengths(part: Tensor) -> Tensor:
            return part.abs().pow(power).sum(axes, keepdim=True)

        def unit(part: Tensor) -> Tensor:
            length = lengths(part) ** (1 / power)
            return part / torch.where(length > 0, length, torch.ones_like(length))

        scaled = delta / max(self.epsilon, 1e-30)
        share_of, total = lengths(scaled * emptied), lengths(scaled)
        spare = (1 - total.flatten(1).sum(1)).clamp(min=0) / total[0].numel()
        fresh = unit(unit(pattern) + unit(scaled * window)) * (share_of + rows(spare, total)) ** (1 / power)
        return self.ball.project((scaled.masked_fill(emptied, 0.0) + fresh) * self.epsilon, self.epsilon)


def _entries(like: Tensor, covered: float, draws: Draws) -> Tensor:
    """Any entries of each row of a table [N, F], as booleans."""
    count = max(1, round(covered * like.shape[1]))
    order = draws.uniform(like.shape)
    return order <= order.kthvalue(count, dim=1, keepdim=True).values
