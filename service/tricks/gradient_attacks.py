"""Attacks that follow the gradient: one step, and many projected ones."""

from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.norms import rows
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, Worst, gradient, slope_of, value_of, vanished
from service.tricks.reach import Reach, Survivors, reach


class FGSM(Perturbation):
    """The fast gradient sign method, x + epsilon sign(grad), and its l2 and l1 twins (Goodfellow et al. 2015, section 4)."""

    type: Literal["fgsm"] = "fgsm"
    """One step along the sign of the gradient."""

    @property
    def passes(self) -> int:
        return 3

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """One step of full length."""
        slope = box.free(gradient(x, loss_of.under("cross_entropy")))
        moved = self.perturb(x, self.epsilon * self.ball.direction(box.opening(x, slope, self.ball)), box)
        return Attacked(moved.inputs, vanished(slope))


class PGD(Perturbation):
    """Projected gradient descent from random starts, the worst of all iterates (Madry et al. 2018).

    A row counts as robust only if the clean point and every iterate of every restart keep its label; broken rows are
    left alone at once.
    """

    type: Literal["pgd"] = "pgd"
    """Many projected steps along the gradient."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Steps of each restart."""
    step_size: Annotated[float, Field(gt=0, le=1e30)] | None = None
    """Length of a step; null: 2.5 epsilon / steps."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    """Starts; the worst counts."""
    random_start: bool = True
    """Whether to start at random inside the ball."""
    loss: Literal["cross_entropy", "margin", "dlr"] = "cross_entropy"
    """What is raised: cross-entropy, the margin between the best wrong class and the right one, or that margin's DLR ratio."""

    @property
    def length(self) -> float:
        """Of a step: 2.5 epsilon / steps unless it is given (Madry et al. 2018)."""
        return self.step_size if self.step_size is not None else 2.5 * self.epsilon / self.steps

    def resolved(self) -> Self:
        return self.model_copy(update={"step_size": self.length})

    @property
    def passes(self) -> int:
        return self.restarts * (4 * self.steps + 1)

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """The first iterate that breaks a row, else the one with the largest loss."""
        draws, loss_of = self.draws(x, numbers), loss_of.under(self.loss)
        values, slope, wrong = slope_of(x, loss_of)
        worst, alive = Worst.of(x), (~wrong).nonzero().squeeze(1)
        for _ in range(self.restarts):
            if not len(alive):
                break
            ground, loss = reach(x.index_select(0, alive), self.ball, self.epsilon, box), loss_of.only(alive)
            if self.random_start:
                start = box.apply(x, self.ball.sample(x, self.epsilon, draws, box.movable)).index_select(0, alive)
                seen = slope_of(start, loss)
            else:  # the clean rows have just been looked at
                start = x.index_select(0, alive)
                seen = values.index_select(0, alive), slope.index_select(0, alive), wrong.index_select(0, alive)
            alive = self._descend(Descent(alive, start, *seen, loss, ground), worst)
        return Attacked(worst.inputs, vanished(box.free(slope)))

    def _descend(self, at: "Descent", worst: Worst) -> Tensor:
        """One restart; notes its points and returns the numbers of the rows that survive it."""
        size, best, top = at.moved.new_tensor(self.length), at.moved, at.values
        for step in range(self.steps + 1):
            if step:
                at = at.ahead(size, last=step == self.steps)
                best, top = higher(best, top, at.moved, at.values)
            if bool(at.broken.any()):
                worst.note(at.alive[at.broken], at.moved[at.broken], at.values[at.broken], at.broken[at.broken])
                standing = Survivors(at.broken)
                at, best, top = at.only(standing), standing.of(best), standing.of(top)
            if not len(at.alive):
                break
        worst.note(at.alive, best, top, at.broken)
        return at.alive


class Descent(NamedTuple):
    """Rows on their way: their numbers [N], where they are [N, ...], the loss [N] and its slope there, and who is broken [N]."""

    alive: Tensor
    moved: Tensor
    values: Tensor
    slope: Tensor
    broken: Tensor
    loss_of: LossOf
    ground: Reach

    def ahead(self, size: Tensor, *, last: bool) -> "Descent":
        """After a step; nobody goes on from the last one, whose slope is not asked for."""
        moved = self.ground.ahead(self.moved, self.slope, size)
        if last:
            values, broken = value_of(moved, self.loss_of)
            return self._replace(moved=moved, values=values, broken=broken)
        values, slope, broken = slope_of(moved, self.loss_of)
        return self._replace(moved=moved, values=values, slope=slope, broken=broken)

    def only(self, standing: Survivors) -> "Descent":
        """Some of the rows; this one is overwritten."""
        of = standing.of
        places = of(self.alive), of(self.moved), of(self.values), of(self.slope), of(self.broken)
        return Descent(*places, self.loss_of.only(standing.places), self.ground.only(standing))


def higher(best: Tensor, top: Tensor, moved: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The better of two points of each row [N, ...], and its loss [N]; the later one of equals."""
    better = values >= top
    # As a rule all are: every step is to raise the loss.
    if bool(better.all()):
        return moved, values
    return torch.where(rows(better, moved), moved, best), torch.where(better, values, top)
