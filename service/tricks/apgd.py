"""Auto-PGD: projected ascent with momentum that finds its step size by itself (Croce and Hein 2020, section 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from service.tricks.boundaries import rivals
from service.tricks.choices import refuse
from service.tricks.norms import rows
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, Worst, slope_of, vanished
from service.tricks.reach import Reach, Survivors, reach

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
    targets: Annotated[int, Field(ge=0, le=1000)] = 0
    """Classes that are led to one after the other, the most probable first, any of which breaks a row; 0: to none in particular."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.targets and self.target is not None:
            raise refuse("inconsistent-spec", "targets leads to several classes in turn, target to one", pointer="/targets")
        return self

    @property
    def classes_only(self) -> bool:
        return self.targets > 0

    @property
    def passes(self) -> int:
        return max(1, self.targets) * self.restarts * (4 * self.steps + 4) + 3

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """The first iterate that breaks a row, else the one with the largest loss."""
        draws, loss_of = self.draws(x, numbers), loss_of.under(self.loss)
        _, slope, wrong = slope_of(x, loss_of)
        worst, alive = Worst.of(x), (~wrong).nonzero().squeeze(1)
        for loss in self._turns(x, loss_of):
            if not len(alive):
                break
            start = box.apply(x, self.ball.sample(x, self.epsilon, draws, box.movable)).index_select(0, alive)
            ground = reach(x.index_select(0, alive), self.ball, self.epsilon, box)
            alive = Climb.begun(alive, start, loss.only(alive), ground, 2 * self.epsilon).run(self.steps, worst)
        return Attacked(worst.inputs, vanished(box.free(slope)))

    def _turns(self, x: Tensor, loss_of: LossOf) -> Iterator[LossOf]:
        """What is raised from each start: with `targets` what leads to each row's most probable other classes (ibid., section 5.1)."""
        losses = [loss_of.towards(goals) for goals in rivals(x, loss_of, self.targets).T] if self.targets else [loss_of]
        yield from (loss for loss in losses for _ in range(self.restarts))


@dataclass
class Climb:
    """One restart of rows [N]: for each its number, the point it is at, the one before, and the best one with its loss and slope."""

    alive: Tensor
    moved: Tensor
    previous: Tensor
    slope: Tensor
    last: Tensor
    """The loss at `moved`."""
    best: Tensor
    best_slope: Tensor
    values: Tensor
    """The best loss."""
    size: Tensor
    """Of the next step."""
    rises: Tensor
    """Steps since the last checkpoint that raised the loss."""
    halved: Tensor
    """Whether the last checkpoint halved the step."""
    known: Tensor
    """The best loss at the last checkpoint."""
    broken: Tensor
    loss_of: LossOf
    ground: Reach

    @classmethod
    def begun(cls, alive: Tensor, start: Tensor, loss_of: LossOf, ground: Reach, size: float) -> "Climb":
        """At the start, with steps of that size."""
        values, slope, broken = slope_of(start, loss_of)
        rises, halved = torch.zeros_like(values), torch.ones_like(broken)
        places = (alive, start, start, slope, values, start, slope, values)
        return cls(*places, torch.full_like(values, size), rises, halved, values, broken, loss_of, ground)

    def run(self, steps: int, worst: Worst) -> Tensor:
        """All steps; notes the first point that broke a row, or its best one, and returns the numbers of the rows that survive."""
        since, marks = 0, set(checkpoints(steps))
        self._bury(worst)
        for step in range(steps):
            if not len(self.alive):
                break
            self._visit(self._ahead(momentum=MOMENTUM if step else 1.0))
            self._bury(worst)
            if step + 1 in marks:
                self._judge(step + 1 - since)
                since = step + 1
        worst.note(self.alive, self.best, self.values, self.broken)
        return self.alive

    def _ahead(self, *, momentum: float) -> Tensor:
        """The next point: a projected step, and with it some of the way that led here."""
        step = self.ground.ahead(self.moved, self.slope, rows(self.size, self.moved))
        if momentum == 1:
            return step
        return self.ground.inside(momentum * step + (1 - momentum) * (2 * self.moved - self.previous))

    def _visit(self, moved: Tensor) -> None:
        """Go to the next point and look."""
        values, self.slope, self.broken = slope_of(moved, self.loss_of)
        self.rises = self.rises + (values > self.last)
        better = values > self.values
        if bool(better.any()):
            wins = rows(better, moved)
            self.best, self.best_slope = torch.where(wins, moved, self.best), torch.where(wins, self.slope, self.best_slope)
            self.values = torch.where(better, values, self.values)
        self.previous, self.moved, self.last = self.moved, moved, values

    def _bury(self, worst: Worst) -> None:
        """Note where rows broke, and go on with the others."""
        if not bool(self.broken.any()):
            return
        worst.note(self.alive[self.broken], self.moved[self.broken], self.last[self.broken], self.broken[self.broken])
        standing = Survivors(self.broken)
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, part in parts.items():
            if isinstance(part, Tensor):
                setattr(self, name, standing.of(part))
        self.loss_of, self.ground = self.loss_of.only(standing.places), self.ground.only(standing)

    def _judge(self, steps: int) -> None:
        """At a checkpoint: where too few steps rose, or neither step nor best loss changed, half the step from the best point."""
        stalled = (self.rises < ENOUGH * steps) | (~self.halved & (self.values <= self.known))
        back = rows(stalled, self.moved)
        self.moved, self.previous = (torch.where(back, self.best, place) for place in (self.moved, self.previous))
        self.slope = torch.where(back, self.best_slope, self.slope)
        self.last, self.size = torch.where(stalled, self.values, self.last), torch.where(stalled, self.size / 2, self.size)
        self.halved, self.known, self.rises = stalled, self.values, torch.zeros_like(self.rises)
