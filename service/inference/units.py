"""Attacks in another unit than the inputs' own: epsilon in standard deviations of each column."""

from dataclasses import dataclass, replace

from torch import Tensor

from service.tricks.attacks import AnyAttack, Attacked, Box, Corruption, LossOf
from service.tricks.criteria import CriterionName
from service.tricks.perturbation import Look


@dataclass(frozen=True)
class Scaled:
    """The predictor asked in units u: at x + (u - x / unit) unit, so that what did not move is the row bit by bit."""

    loss_of: LossOf
    x: Tensor
    start: Tensor
    unit: Tensor

    def raw(self, u: Tensor) -> Tensor:
        """The rows in their own unit."""
        return self.x + (u - self.start) * self.unit

    @property
    def right(self) -> Tensor:
        """The index of the class that is right for each row [N]."""
        return self.loss_of.right

    def __call__(self, x: Tensor) -> Tensor:
        """The loss [N]."""
        return self.loss_of(self.raw(x))

    def looked(self, x: Tensor) -> Look:
        """The loss, and who is broken."""
        return self.loss_of.looked(self.raw(x))

    def scores(self, x: Tensor) -> Tensor:
        """Scores of the classes [N, C]."""
        return self.loss_of.scores(self.raw(x))

    def broken(self, x: Tensor) -> Tensor:
        """Rows [N] whose answer is not the label."""
        return self.loss_of.broken(self.raw(x))

    def only(self, chosen: Tensor) -> "Scaled":
        """The same for some of the rows."""
        return replace(self, loss_of=self.loss_of.only(chosen), x=self.x[chosen], start=self.start[chosen])

    def under(self, criterion: CriterionName) -> "Scaled":
        """The same with another criterion."""
        return replace(self, loss_of=self.loss_of.under(criterion))

    def towards(self, classes: Tensor) -> "Scaled":
        """The same on the way to a class."""
        return replace(self, loss_of=self.loss_of.towards(classes))


def run(attack: AnyAttack, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
    """One attack on rows, in the unit of its epsilon; epsilon 0 gives them back bit by bit. `numbers` as of the attack."""
    if isinstance(attack, Corruption):
        return attack(x, loss_of, box, numbers)
    if attack.epsilon == 0:
        return Attacked(x.clone())
    if box.unit is None:
        return attack(x, loss_of, box, numbers)
    start = x / box.unit
    low, high = (None if bound is None else bound / box.unit for bound in (box.low, box.high))
    found = attack(start, Scaled(loss_of, x, start, box.unit), Box(low, high, box.movable), numbers)
    return found._replace(inputs=box.apply(x, (found.inputs - start) * box.unit))
