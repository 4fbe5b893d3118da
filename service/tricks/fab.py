"""The fast adaptive boundary attack: the shortest perturbation that changes the class (Croce and Hein 2020, FAB)."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.boundaries import Minimal, linearized, nearest_boundary, rivals, way_across
from service.tricks.norms import rows
from service.tricks.perturbation import Box, LossOf, vanished

OVERSHOOT, BACKWARD, MOST_PULL = 1.05, 0.9, 0.1
"""Of a step across the boundary, of the way back to the row, and the largest share of the row's own projection (ibid., section 2)."""
POLISH = (1e-3, 1e-4, 1e-5)
"""Smaller and smaller overshoots of the row's own projection, once the boundary is known."""
HALVINGS = 24
"""Of the segment between a row and its nearest broken point, at the end."""


class FAB(Minimal):
    """Minimal perturbations: each step goes to the nearest linearized boundary within the bounds, drawn to the row.

    Rows whose shortest perturbation is longer than epsilon stand; a curve over epsilons is read off one run.
    """

    type: Literal["fab"] = "fab"
    """The shortest perturbation that changes the class."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 30
    """Steps to the boundary."""

    @property
    def passes(self) -> int:
        return (self.steps + len(POLISH)) * (2 + 2 * self.classes) + HALVINGS + 4

    def nearest(self, x: Tensor, loss_of: LossOf, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        search = _Search(x, loss_of, box, self, x.clone(), torch.full_like(x.flatten(1)[:, 0], math.inf))
        search.note(x, loss_of.broken(x))
        against, moved, flat = rivals(x, loss_of, self.classes), x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for step in range(self.steps):
            margins, slopes = linearized(moved, against, loss_of, box)
            if step == 0:
                flat = vanished(slopes.transpose(0, 1))
            moved = search.step(moved, margins, slopes)
            broken = loss_of.broken(moved)
            search.note(moved, broken)
            moved = torch.where(rows(broken, x), x + BACKWARD * (moved - x), moved)
        for overshoot in POLISH:
            search.polish(against, overshoot)
        search.halve()
        return search.best, search.distances, flat


@dataclass
class _Search:
    """The rows, the predictor, and the nearest broken point of each row so far."""

    x: Tensor
    loss_of: LossOf
    box: Box
    attack: FAB
    best: Tensor
    distances: Tensor

    def step(self, moved: Tensor, leads: Tensor, slopes: Tensor) -> Tensor:
        """Across the boundary that is nearest to first order, partly from where the search is and partly from the row."""
        ball = self.attack.ball
        lead, slope = nearest_boundary(leads, slopes, ball)
        here = self._projection(moved, slope, -lead)
        home = self._projection(self.x, slope, -lead + (slope * (moved - self.x)).flatten(1).sum(1))
        ahead, back = ball.length(here), ball.length(home)
        pull = rows((ahead / (ahead + back).clamp(min=torch.finfo(lead.dtype).tiny)).clamp(max=MOST_PULL), moved)
        target = (1 - pull) * (moved + OVERSHOOT * here) + pull * (self.x + OVERSHOOT * home)
        return self.box.apply(self.x, target - self.x)

    def _projection(self, x: Tensor, slope: Tensor, needed: Tensor) -> Tensor:
        return way_across(x, slope, needed, self.box, self.attack.ball)

    def note(self, moved: Tensor, broken: Tensor) -> None:
        """Keep broken points that are nearer than those before."""
        length = self.attack.ball.length(moved - self.x)
        nearer = broken & (length < self.distances)
        self.best = torch.where(rows(nearer, moved), moved, self.best)
        self.distances = torch.where(nearer, length, self.distances)

    def polish(self, against: Tensor, overshoot: float) -> None:
        """The row's own projection onto the boundary at its nearest point: bounds bend the way there."""
        leads, slopes = linearized(self.best, against, self.loss_of, self.box)
        lead, slope = nearest_boundary(leads, slopes, self.attack.ball)
        way = self._projection(self.x, slope, -lead + (slope * (self.best - self.x)).flatten(1).sum(1))
        moved = self.box.apply(self.x, (1 + overshoot) * way)
        self.note(moved, self.loss_of.broken(moved))

    def halve(self) -> None:
        """Move the nearest points along their segment to the row onto the boundary."""
        found = (self.distances.isfinite() & (self.distances > 0)).nonzero().squeeze(1)
        if not len(found):
            return
        origin, end, loss_of = self.x[found], self.best[found], self.loss_of.only(found)
        low, high = torch.zeros_like(self.distances[found]), torch.ones_like(self.distances[found])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            moved = self.box.apply(origin, rows(middle, origin) * (end - origin))
            broken = loss_of.broken(moved)
            low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
            self.best[found] = torch.where(rows(broken, moved), moved, self.best[found])
        self.distances[found] = self.attack.ball.length(self.best[found] - origin)
