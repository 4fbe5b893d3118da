"""A model under attack: labelled rows, the predictor that answers, and what an attack did to them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.inference.aiming import LossOf, Predictor, aimed
from service.inference.asking import ask, networks_asked, quiet
from service.inference.boxes import placed
from service.inference.model import Model
from service.inference.neighbours import Neighbours
from service.inference.pools import Classes, Numbers
from service.inference.units import run
from service.tricks.attacks import AnyAttack, Attacked, Perturbation
from service.tricks.modes import Axes
from service.tricks.targets import agrees

FEWEST_ROWS, MOST_ROWS = 250, 1000
HELD = 20_000_000
"""Numbers that the graph of one gradient may hold."""
BLOCK_WORK = 5e10
"""Multiplications after which a job should have something to show."""
PASS_WORK = 60_000
"""Of one row's pass through a small network, as multiplications that take as long."""


def rows_at_once(model: Model, axes: Axes) -> int:
    """Rows that one attack moves side by side: many, lest short tails of rows take the time.

    Small networks keep to few, at which an ensemble of ten costs less than three of its members.
    """
    network, networks = model.networks[0], len(axes.members) if axes.dropout == "weight_scaled" else 1  # masks are taken chunk by chunk
    most = MOST_ROWS if network.products > PASS_WORK else FEWEST_ROWS
    return max(1, min(most, HELD // (networks * (network.entries + 1))))


def block_rows(model: Model, axes: Axes, attacks: Sequence[AnyAttack], epsilons: Sequence[float]) -> int:
    """Rows after which a job keeps what it has: all its attacks on them take about `BLOCK_WORK`, within bounds."""
    passes = sum(attack.passes * len(attack.sizes(epsilons)) for attack in attacks)
    each = PASS_WORK + model.networks[0].products * networks_asked(model, axes)
    return max(FEWEST_ROWS, min(MOST_ROWS, int(BLOCK_WORK / max(1, passes * each))))


class Outcome(NamedTuple):
    """Perturbed rows, and which are still right [N]; flat: rows without gradient; distances and rungs as of `Attacked`."""

    moved: Tensor
    standing: Tensor
    flat: Tensor | None = None
    distances: Tensor | None = None
    rungs: Tensor | None = None

    def noted(self, chosen: Tensor, result: Attacked, standing: Tensor) -> "Outcome":
        """With what became of some of the rows written in; rows that were not attacked have no distance and no rung."""
        self.moved.index_copy_(0, chosen, result.inputs)
        self.standing[chosen] = standing
        parts: list[Tensor | None] = []
        for before, found, absent in (
            (self.flat, result.zero_gradients, False), (self.distances, result.distances, 0.0), (self.rungs, result.rungs, -1),
        ):  # fmt: skip
            if found is None:
                parts.append(None)
                continue
            whole = before if before is not None else torch.full((len(self.standing),), absent, dtype=found.dtype)
            whole[chosen] = found
            parts.append(whole)
        return Outcome(self.moved, self.standing, *parts)


class Subject:
    """A model under attack: labelled rows of one part from number `first` on, on one point of its axes.

    `beat` is called before each pass.
    """

    neighbours: Neighbours | None = None
    """Training rows, where distances to them are wanted."""

    def __init__(self, model: Model, axes: Axes, x: Tensor, labels: Tensor, *, first: int = 0, beat: Callable[[], None] = quiet) -> None:
        self.first = first
        self.beat = beat
        self.model = model
        self.axes = axes
        self.x = x
        self.labels = labels
        self.target = (model.spec.targets or ())[0].name
        answer = ask(model, x, axes, beat=beat)[self.target]
        self.truth = labels.argmax(-1) if isinstance(answer, Classes) and labels.is_floating_point() else labels
        """The class that counts as right, or the number."""
        self.right = agrees(answer.prediction, labels) if isinstance(answer, Classes) else torch.ones(len(x), dtype=torch.bool)
        self.clean = answer

    def loss(self, chosen: Tensor, attack: AnyAttack) -> LossOf:
        """The loss of some rows, as the attack wants it."""
        predictor = Predictor(self.model, self.axes, self.target, self.beat)
        return aimed(attack, predictor, self.labels, self.clean, chosen)

    def attack(self, attack: AnyAttack) -> "Outcome":
        """What an attack did to the rows that were right; the others stay as they are."""
        outcome = Outcome(self.x.clone(), self.right.clone())
        box = placed(attack, self.model)
        rows = self.right.nonzero().squeeze(1)
        for chosen in rows.split(rows_at_once(self.model, self.axes)) if len(rows) else ():
            loss_of = self.loss(chosen, attack)
            result = run(attack, self.x.index_select(0, chosen), loss_of, box, self.first + chosen)
            outcome = outcome.noted(chosen, result, ~loss_of.judge().broken(result.inputs))
        return outcome

    def errors(self, x: Tensor) -> list[float]:
        """Squared errors of a regression target, mean over its outputs."""
        answer = ask(self.model, x, self.axes, beat=self.beat)[self.target]
        if not isinstance(answer, Numbers):
            raise TypeError("classes have no squared error")
        return list((answer.mean - self.labels).square().mean(-1).tolist())

    def nearest_other(self, moved: Tensor, chosen: Tensor, attack: Perturbation) -> list[float | None]:
        """How far the nearest training row of another class than each row's own is; None where no training rows are at hand."""
        if self.neighbours is None:
            return [None] * len(moved)
        return self.neighbours.nearest_other(moved, self.truth[chosen], attack, self.model)
