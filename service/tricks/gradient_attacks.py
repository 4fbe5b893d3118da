"""Attacks that follow the gradient: one step, and many projected ones."""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, Worst, confirmed, gradient, slope_of, vanished


class FGSM(Perturbation):
    """The fast gradient sign method, x + epsilon sign(grad), and its l2 and l1 twins (Goodfellow et al. 2015, section 4)."""

    type: Literal["fgsm"] = "fgsm"
    """One step along the sign of the gradient."""

    @property
    def passes(self) -> int:
        return 3

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
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

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """The first iterate that breaks a row, else the one with the largest loss."""
        generator, loss_of = self.generator(x), loss_of.under(self.loss)
        _, slope, suspects = slope_of(x, loss_of)
        worst, alive = Worst.of(x), (~confirmed(x, suspects, loss_of)).nonzero().squeeze(1)
        for _ in range(self.restarts):
            start = self.ball.sample(x, self.epsilon, generator, box.movable) if self.random_start else torch.zeros_like(x)
            alive = self._descend(x, box.apply(x, start), alive, worst, loss_of=loss_of, box=box)
            if not len(alive):
                break
        return Attacked(worst.inputs, vanished(box.free(slope)))

    def _descend(self, x: Tensor, start: Tensor, alive: Tensor, worst: Worst, *, loss_of: LossOf, box: Box) -> Tensor:
        """One restart over the rows still alive; notes its points and returns the survivors."""
        size = self.length
        origin, moved, loss = x[alive], start[alive], loss_of.only(alive)
        for step in range(self.steps + 1):
            if not len(alive):
                break
            values, slope, suspects = slope_of(moved, loss) if step < self.steps else _measured(moved, loss)
            broken = confirmed(moved, suspects, loss)
            worst.note(alive, moved, values, broken)
            if bool(broken.any()):
                standing = (~broken).nonzero().squeeze(1)
                alive, origin, moved, slope, loss = alive[standing], origin[standing], moved[standing], slope[standing], loss.only(standing)
            if step < self.steps:
                ascent = moved - origin + size * self.ball.direction(box.opening(moved, slope, self.ball))
                moved = box.apply(origin, self.ball.project(ascent, self.epsilon))
        return alive


@torch.no_grad()
def _measured(x: Tensor, loss_of: LossOf) -> tuple[Tensor, Tensor, Tensor]:
    """As `slope_of`, without the slope that the last iterate has no use for."""
    values, suspects = loss_of.looked(x)
    return values, x, suspects
