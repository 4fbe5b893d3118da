"""Controls beside a job's attacks: noise, FGSM, PGD on two losses, APGD, Square and transfer, all on the same few rows."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from service.data.encoding import Encoding
from service.inference.boxes import placed
from service.inference.robustness import Subject
from service.tricks.attacks import APGD, FGSM, PGD, AnyAttack, Corruption, Perturbation, Square, UniformNoise, gradient
from service.tricks.norms import NORMS, NormName
from service.tricks.perturbation import Source

STEPS, QUERIES, MOST_SQUARES = 20, 500, 3
LONG = 50
SHARED = ("norm", "bounds", "immutable", "seed", "unit")
STRENGTH = ("ladder", "apgd", "pgd", "fab", "deepfool", "square", "fgsm")
"""Which of a job's attacks the controls take their norm and bounds from: the first of these that it has."""


def leading(attacks: Sequence[AnyAttack]) -> Perturbation | None:
    """The strongest kind among the attacks; None where there is only corruption."""
    within = [attack for attack in attacks if not isinstance(attack, Corruption)]
    known = sorted((attack for attack in within if attack.type in STRENGTH), key=lambda attack: STRENGTH.index(attack.type))
    return next(iter(known or within), None)


class Trial:
    """The controls, each an accuracy per epsilon, made when they are first asked for."""

    def __init__(self, subject: Subject, lead: Perturbation, epsilons: Sequence[float]) -> None:
        self.subject = subject
        self.epsilons = epsilons
        self.lead = lead

    def alike(self, kind: type[Any], epsilon: float, **fields: Any) -> Perturbation:
        """An attack with the norm, bounds and fields of the job's own."""
        made: Perturbation = kind(epsilon=epsilon, **{name: getattr(self.lead, name) for name in SHARED}, **fields)
        return made

    def left(self, kind: type[Any], epsilon: float, **fields: Any) -> float:
        """Accuracy under an attack."""
        return float(self.subject.attack(self.alike(kind, epsilon, **fields)).standing.float().mean())

    def curve(self, kind: type[Any], **fields: Any) -> list[float]:
        """Accuracy under an attack, per epsilon."""
        return [self.left(kind, epsilon, **fields) for epsilon in self.epsilons]

    @cached_property
    def noise(self) -> list[float]:
        """Under noise uniform in the ball."""
        return self.curve(UniformNoise)

    @cached_property
    def fgsm(self) -> list[float]:
        """Under one step."""
        return self.curve(FGSM)

    @cached_property
    def pgd(self) -> list[float]:
        """Under PGD on cross-entropy."""
        return self.curve(PGD, steps=STEPS)

    @cached_property
    def margin(self) -> list[float]:
        """Under PGD on the margin."""
        return self.curve(PGD, steps=STEPS, loss="margin")

    @cached_property
    def long(self) -> list[float]:
        """Under PGD on the margin, of 50 steps."""
        return self.curve(PGD, steps=LONG, loss="margin")

    @cached_property
    def longest(self) -> list[float]:
        """The same of 100 steps."""
        return self.curve(PGD, steps=2 * LONG, loss="margin")

    @cached_property
    def apgd(self) -> list[float]:
        """Under APGD on the DLR ratio."""
        return self.curve(APGD, steps=LONG)

    @cached_property
    def white_box(self) -> list[float]:
        """Under the strongest of the attacks that follow the predictor's own gradient."""
        return [min(found) for found in zip(self.pgd, self.margin, self.long, self.apgd, strict=True)]

    @cached_property
    def black_box(self) -> list[tuple[int, float]]:
        """The number of an epsilon, and accuracy under Square or under rows made on one member: at up to three epsilons."""
        count = len(self.epsilons)
        chosen = sorted({round(i * (count - 1) / max(1, MOST_SQUARES - 1)) for i in range(MOST_SQUARES)})
        found = [(i, self.left(Square, self.epsilons[i], queries=QUERIES)) for i in chosen]
        if len(self.subject.axes.members) > 1:
            found += [(i, self.left(PGD, self.epsilons[i], steps=STEPS, loss="margin", source=Source(members="best"))) for i in chosen]
        return found

    @cached_property
    def own(self) -> "OwnSlope":
        """Loss and slope at the rows that are right, under cross-entropy."""
        rows = self.subject.right.nonzero().squeeze(1)
        return OwnSlope(rows, self.subject, self.alike(PGD, self.epsilons[-1], steps=STEPS))

    @property
    def everything_moves(self) -> bool:
        """Whether the attack may change every input."""
        box = placed(self.lead, self.subject.model)
        return box.movable is None or bool((box.movable > 0).all())

    @property
    def full_range(self) -> float:
        """The length, in the attack's unit, of a perturbation that reaches any input from any other."""
        box = placed(self.lead, self.subject.model)
        return full_range(self.subject.model.encoding, self.lead.norm, box.unit)


class OwnSlope:
    """The loss that an attack raises at the rows that are right, and what the attack did to it."""

    def __init__(self, rows: Tensor, subject: Subject, attack: Perturbation) -> None:
        self._loss = subject.loss(rows, attack).under("cross_entropy")
        self._clean = subject.x[rows]
        self._moved = subject.attack(attack).moved[rows]
        self.slope = gradient(self._clean, self._loss)

    def fell(self) -> float:
        """The share of attacked rows on which the loss fell."""
        with torch.no_grad():
            return float((self._loss(self._moved) < self._loss(self._clean) - 1e-6).float().mean())


def full_range(encoding: Encoding, norm: NormName, unit: Tensor | None = None) -> float:
    """The length of a perturbation that reaches any input from any other."""
    if encoding.array:
        extents = torch.full(encoding.array.shape, encoding.array.high - encoding.array.low)
    else:
        extents = torch.zeros(encoding.shape)
        for i, number in enumerate(encoding.numeric):
            extents[i] = number.high - number.low
    return float(NORMS[norm].length((extents if unit is None else extents / unit).unsqueeze(0)))
