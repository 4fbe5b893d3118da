"""Auto-PGD: projected ascent with momentum that finds its step size by itself (Croce and Hein 2020, section 3)."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.norms import rows
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, Worst, confirmed, slope_of, vanished

MOMENTUM = 0.75
ENOUGH = 0.75
"""Share of the steps since the last checkpoint that have to raise the loss, lest the step is halved."""


def checkpoints(steps: int) -> list[int]:
    """After .22 of the steps, then at intervals that shrink by .03 of them, down to .06 (Croce and Hein 2020, section 3.1)."""
    before, at, found = 0.0, 0.22, []
    while at < 1:
        found.append(math.ceil(at * steps - 1e-9))  # .57 of 100 is 57
        before, at = at, at + max(at - before - 0.03, 0.06)
    return sorted({place for place in found if place < steps})


class APGD(Perturbation):
    """Auto-PGD: steps of 2 epsilon that halve where the loss stalls, from the best point so far.

    The DLR ratio sees through logits of any size.
    """

    type: Literal["apgd"] = "apgd"
    """Projected ascent without a step size to tune."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Steps of each restart."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    """Starts; the worst counts."""
    loss: Literal["cross_entropy", "margin", "dlr"] = "dlr"
    """What is raised; the DLR ratio is the margin where classes are fewer than three (four with a target)."""

    @property
    def passes(self) -> int:
        return self.restarts * (4 * self.steps + 4)

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """The first iterate that breaks a row, else the one with the largest loss."""
        generator, loss_of = self.generator(x), loss_of.under(self.loss)
        _, slope, suspects = slope_of(x, loss_of)
        worst, alive = Worst.of(x), (~confirmed(x, suspects, loss_of)).nonzero().squeeze(1)
        for _ in range(self.restarts):
            if not len(alive):
                break
            start = box.apply(x, self.ball.sample(x, self.epsilon, generator, box.movable))[alive]
            climb = Climb.begun(self, x[alive], start, loss_of.only(alive), box)
            broken = climb.run()
            worst.note(alive, climb.best, climb.values, broken)
            alive = alive[~broken]
        return Attacked(worst.inputs, vanished(box.free(slope)))


@dataclass
class Climb:
    """One restart: for each row the point it is at, the one before, and the best one with its loss and slope."""

    attack: APGD
    origin: Tensor
    loss_of: LossOf
    box: Box
    moved: Tensor
    slope: Tensor
    last: Tensor
    """The loss at `moved`."""
    broken: Tensor
    best: Tensor
    best_slope: Tensor
    values: Tensor
    """The best loss."""

    @classmethod
    def begun(cls, attack: APGD, origin: Tensor, start: Tensor, loss_of: LossOf, box: Box) -> "Climb":
        """At the start."""
        values, slope, suspects = slope_of(start, loss_of)
        broken = confirmed(start, suspects, loss_of)
        return cls(attack, origin, loss_of, box, start, slope, values, broken, start.clone(), slope.clone(), values.clone())

    def run(self) -> Tensor:
        """All steps, or until every row is broken; returns which are."""
        attack = self.attack
        size = torch.full_like(self.values, 2 * attack.epsilon)
        previous, rises = self.moved, torch.zeros_like(self.values)
        halved, known, since = torch.ones_like(self.broken), self.values.clone(), 0
        marks = set(checkpoints(attack.steps))
        for step in range(attack.steps):
            if bool(self.broken.all()):
                break
            moved = self._ahead(size, previous, momentum=MOMENTUM if step else 1.0)
            previous = self.moved
            rises += self._visit(moved)
            if step + 1 not in marks:
                continue
            # Too few steps rose, or neither step nor best loss changed since the last checkpoint.
            stalled = (rises < ENOUGH * (step + 1 - since)) | (~halved & (self.values <= known))
            size = torch.where(stalled, size / 2, size)
            self._return(stalled)
            previous = torch.where(rows(stalled, moved), self.best, previous)
            halved, known, since, rises = stalled, self.values.clone(), step + 1, torch.zeros_like(rises)
        return self.broken

    def _ahead(self, size: Tensor, previous: Tensor, *, momentum: float) -> Tensor:
        """The next point: a projected step, and with it some of the way that led here."""
        direction = self.attack.ball.direction(self.box.opening(self.moved, self.slope, self.attack.ball))
        step = self._inside(self.moved + rows(size, direction) * direction)
        return self._inside(self.moved + momentum * (step - self.moved) + (1 - momentum) * (self.moved - previous))

    def _inside(self, x: Tensor) -> Tensor:
        return self.box.apply(self.origin, self.attack.ball.project(self.box.free(x - self.origin), self.attack.epsilon))

    def _visit(self, moved: Tensor) -> Tensor:
        """Look at the next point; whether each row's loss rose [N]. A broken row stays where it broke."""
        places = (~self.broken).nonzero().squeeze(1)
        whole = len(places) == len(moved)
        at, loss_of = (moved, self.loss_of) if whole else (moved[places], self.loss_of.only(places))
        values, slope, suspects = slope_of(at, loss_of)
        broken = confirmed(at, suspects, loss_of)
        rose = torch.zeros_like(self.values)
        rose[places] = (values > self.last[places]).to(rose.dtype)
        better = broken | (values > self.values[places])
        won = places[better]
        self.best[won], self.best_slope[won], self.values[won] = at[better], slope[better], values[better]
        self.moved = moved
        self.slope[places], self.last[places], self.broken[places] = slope, values, broken
        return rose

    def _return(self, stalled: Tensor) -> None:
        """Rows that stalled go on from their best point."""
        self.moved = torch.where(rows(stalled, self.moved), self.best, self.moved)
        self.slope = torch.where(rows(stalled, self.slope), self.best_slope, self.slope)
        self.last = torch.where(stalled, self.values, self.last)
