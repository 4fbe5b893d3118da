"""How far rows may go: what lies both in the ball around them and in the box."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.tricks.norms import Norm
from service.tricks.perturbation import Box


class Survivors:
    """Of rows [N] some of which are broken, the others: those at the end take the places of the broken ones, so that few are copied."""

    def __init__(self, broken: Tensor) -> None:
        self.count = len(broken) - int(broken.sum())
        self._holes = broken[: self.count].nonzero().squeeze(1)
        self._fillers = (~broken[self.count :]).nonzero().squeeze(1) + self.count

        self.places = self.of(torch.arange(len(broken)))
        """Where they were [M]."""

    def of(self, part: Tensor) -> Tensor:
        """What belongs to them [M, ...]; the tensor [N, ...] is overwritten."""
        part.index_copy_(0, self._holes, part.index_select(0, self._fillers))
        return part[: self.count]


class Reach(Protocol):
    """Where rows [N, ...] may be moved to."""

    def only(self, chosen: Survivors) -> "Reach":
        """The same for some of the rows; this one is overwritten."""
        ...

    def inside(self, moved: Tensor) -> Tensor:
        """Rows that may have gone too far, back in reach."""
        ...

    def ahead(self, moved: Tensor, slope: Tensor, size: Tensor) -> Tensor:
        """A step along the steepest direction, of a length that broadcasts against rows, back in reach."""
        ...


def reach(origin: Tensor, ball: Norm, epsilon: float, box: Box) -> Reach:
    """Of rows [N, ...], which may lie outside the bounds themselves."""
    if not ball.straight:
        return Round(origin, ball, epsilon, box)
    low, high = (box.apply(origin, torch.full_like(origin, side)) for side in (-epsilon, epsilon))
    return Walls(ball, low, high)


@dataclass(frozen=True)
class Walls:
    """A ball that is a box, and bounds: two walls for each entry [N, ...], which meet where it must not move."""

    ball: Norm
    low: Tensor
    high: Tensor

    def only(self, chosen: Survivors) -> "Walls":
        return Walls(self.ball, chosen.of(self.low), chosen.of(self.high))

    def inside(self, moved: Tensor) -> Tensor:
        return torch.clamp(moved, self.low, self.high)

    def ahead(self, moved: Tensor, slope: Tensor, size: Tensor) -> Tensor:
        ahead = self.ball.direction(slope)
        torch.addcmul(moved, ahead, size, out=ahead)
        return torch.clamp(ahead, self.low, self.high, out=ahead)


@dataclass(frozen=True)
class Round:
    """Any other ball: into it first, and then into the box."""

    origin: Tensor
    ball: Norm
    epsilon: float
    box: Box

    def only(self, chosen: Survivors) -> "Round":
        return Round(chosen.of(self.origin), self.ball, self.epsilon, self.box)

    def inside(self, moved: Tensor) -> Tensor:
        return self.box.apply(self.origin, self.ball.project(self.box.free(moved - self.origin), self.epsilon))

    def ahead(self, moved: Tensor, slope: Tensor, size: Tensor) -> Tensor:
        return self.inside(torch.addcmul(moved, self.ball.direction(self.box.opening(moved, slope, self.ball)), size))
