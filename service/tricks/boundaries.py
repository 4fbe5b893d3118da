"""Boundaries between classes as attacks see them: the rivals of a row, and where to first order the nearest of them begins."""

import math
from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.norms import Norm, rows
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation


@torch.no_grad()
def rivals(x: Tensor, loss_of: LossOf, most: int) -> Tensor:
    """The most probable classes [N, R] of each row but the right one, at most `most` of them."""
    scores = loss_of.scores(x).scatter(1, loss_of.right.unsqueeze(1), -math.inf)
    return scores.topk(min(most, scores.shape[1] - 1), dim=1).indices


def linearized(x: Tensor, against: Tensor, loss_of: LossOf, box: Box) -> tuple[Tensor, Tensor]:
    """The rivals' [N, R] lead over the right class [R, N], and its slopes along what may move [R, N, ...]."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        scores = loss_of.scores(leaf)
        leads = (scores.gather(1, against) - scores.gather(1, loss_of.right.unsqueeze(1))).T
        found = [
            torch.autograd.grad(lead.sum(), leaf, retain_graph=True, allow_unused=True)[0] if lead.requires_grad else None for lead in leads
        ]
    slopes = [torch.zeros_like(x) if slope is None else box.free(slope) for slope in found]
    return leads.detach(), torch.stack(slopes)


def nearest_boundary(leads: Tensor, slopes: Tensor, ball: Norm) -> tuple[Tensor, Tensor]:
    """Lead [N] and slope [N, ...] of the rival whose boundary is nearest to first order, of leads [R, N] and slopes [R, N, ...]."""
    tiny = torch.finfo(leads.dtype).tiny
    far = torch.stack([lead.abs() / ball.dual(slope).clamp(min=tiny) for lead, slope in zip(leads, slopes, strict=True)])
    chosen, numbers = far.argmin(0), torch.arange(leads.shape[1], device=leads.device)
    return leads[chosen, numbers], slopes[chosen, numbers]


def way_across(x: Tensor, slope: Tensor, needed: Tensor, box: Box, ball: Norm) -> Tensor:
    """The shortest way within the bounds [N, ...] on which a lead of that slope grows by `needed` [N]."""
    uphill = slope * rows(torch.where(needed < 0, -1.0, 1.0).to(slope.dtype), slope)
    room = box.room(x, uphill)
    way = ball.reach(uphill.flatten(1).abs(), room.flatten(1), needed.abs())
    return way.view_as(x) * uphill.sign()


class Minimal(Perturbation):
    """What looks for the shortest perturbation, whatever its length: rows whose shortest is longer than epsilon stand."""

    classes: Annotated[int, Field(ge=1, le=1000)] = 9
    """Classes whose boundary is looked at: those most probable at the row."""

    @property
    def classes_only(self) -> bool:
        return True

    @abstractmethod
    def nearest(self, x: Tensor, loss_of: LossOf, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """Per row the nearest broken point that was found, its distance (infinite: the row itself), and whether no slope was there."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """The nearest broken point where it lies in the ball, else the row moved towards it as far as the ball goes."""
        nearest, distances, flat = self.nearest(x, loss_of, box)
        towards = self.ball.project(box.free(nearest - x), self.epsilon)
        inside = distances <= self.epsilon
        return Attacked(torch.where(rows(inside, x), nearest, box.apply(x, towards)), flat, distances)
