"""Checks that an attack was one: five of nine. A failed check makes a robustness figure unreliable.

After Athalye et al. 2018 and Carlini et al. 2019.

Not there yet: 2 (more steps never help), 4 (black-box attacks), 6 (two passes agree), 7 (logits, not probabilities).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch

from service.data.encoding import Encoding
from service.inference.robustness import Subject
from service.tricks.attacks import FGSM, PGD, Attack, UniformNoise, gradient, vanished

ROWS = 200
"""Rows that the checks look at; the attacks themselves see all."""
TOLERANCE = 0.05
OVERFITTING_GAP = 0.3
NAMES = ("fgsm_weaker_than_pgd", "monotone_to_chance", "zero_gradients", "noise_weaker_than_attack", "loss_increased")


class Check(NamedTuple):
    """One check: its name, whether it held, the figure that decided and a sentence."""

    name: str
    passed: bool
    value: float
    message: str


def check(subject: Subject, attacks: Sequence[Attack], epsilons: Sequence[float]) -> list[Check]:
    """All checks on the first rows, with the norm and bounds of the job's strongest attack."""
    positive = [epsilon for epsilon in epsilons if epsilon > 0]
    if not positive or not bool(subject.right.any()):
        return []
    lead = next((attack for attack in attacks if isinstance(attack, PGD)), attacks[-1])
    trial = Trial(subject, lead, positive)
    return [trial.fgsm_weaker_than_pgd(), trial.monotone_to_chance(), trial.zero_gradients(), trial.noise_weaker(), trial.loss_increased()]


class Trial:
    """The controls beside an attack: noise, FGSM, PGD on both losses, and PGD at the full range."""

    def __init__(self, subject: Subject, lead: Attack, epsilons: Sequence[float]) -> None:
        self.subject = subject
        self.epsilons = epsilons
        self._lead = lead
        self.pgd = [self._standing(self._pgd(epsilon)) for epsilon in epsilons]
        self.margin = [self._standing(self._pgd(epsilon, loss="margin")) for epsilon in epsilons]
        self.fgsm = [self._standing(self._as(FGSM(epsilon=epsilon))) for epsilon in epsilons]
        self.noise = [self._standing(self._as(UniformNoise(epsilon=epsilon))) for epsilon in epsilons]

    def _as(self, attack: Attack) -> Attack:
        """The attack with the norm, bounds and fields of the job's own."""
        return attack.model_copy(update={name: getattr(self._lead, name) for name in ("norm", "bounds", "immutable", "seed")})

    def _pgd(self, epsilon: float, *, steps: int = 20, loss: Literal["cross_entropy", "margin"] = "cross_entropy") -> Attack:
        return self._as(PGD(epsilon=epsilon, steps=steps, loss=loss))

    def _standing(self, attack: Attack) -> float:
        """Accuracy under an attack."""
        return float(self.subject.attack(attack)[1].float().mean())

    def fgsm_weaker_than_pgd(self) -> Check:
        """1: one step never beats many; a wide gap after adversarial training is catastrophic overfitting."""
        worst = max(pgd - fgsm for pgd, fgsm in zip(self.pgd, self.fgsm, strict=True))
        gap = max(fgsm - pgd for pgd, fgsm in zip(self.pgd, self.fgsm, strict=True))
        if self.subject.model.spec.adversarial_training is not None and gap > OVERFITTING_GAP:
            return Check(NAMES[0], False, gap, "FGSM leaves far more standing than PGD after FGSM training: catastrophic overfitting")
        return Check(NAMES[0], worst <= TOLERANCE, worst, "accuracy under PGD minus accuracy under FGSM, at its largest")

    def monotone_to_chance(self) -> Check:
        """3: accuracy falls with epsilon, and at the full range of the inputs nothing better than chance is left."""
        rises = [later - earlier for earlier, later in pairwise(self.pgd)]
        if rises and max(rises) > TOLERANCE:
            return Check(NAMES[1], False, max(rises), "accuracy rises with epsilon")
        left = self._standing(self._pgd(full_range(self.subject.model.encoding, self._lead.norm), steps=40))
        counts = torch.bincount(self.subject.truth[self.subject.truth >= 0])
        chance = float(counts.max() / counts.sum())
        return Check(NAMES[1], left <= chance + TOLERANCE, left, f"accuracy at the full range of the inputs; chance is {chance:.2f}")

    def zero_gradients(self) -> Check:
        """5: a vanishing gradient fakes robustness; so does a cross-entropy that sees less than a margin."""
        rows = self.subject.right.nonzero().squeeze(1)
        share = float(vanished(gradient(self.subject.x[rows], self.subject.loss(rows, "cross_entropy"))).float().mean())
        if share > TOLERANCE:
            return Check(NAMES[2], False, share, "share of rows on which the gradient of the loss is exactly zero")
        apart = max(abs(ce - margin) for ce, margin in zip(self.pgd, self.margin, strict=True))
        return Check(
            NAMES[2], apart <= 2 * TOLERANCE, max(share, apart), "zero gradients, or accuracy under cross-entropy and margin apart"
        )

    def noise_weaker(self) -> Check:
        """8: where noise of the same size breaks rows, the attack breaks more."""
        gaps = [min(pgd, fgsm) - noise for pgd, fgsm, noise in zip(self.pgd, self.fgsm, self.noise, strict=True)]
        return Check(NAMES[3], max(gaps) <= 0, max(gaps), "accuracy under attack minus accuracy under noise, at its largest")

    def loss_increased(self) -> Check:
        """9: the attack raised the loss that it was to raise."""
        rows = self.subject.right.nonzero().squeeze(1)
        loss_of = self.subject.loss(rows, "cross_entropy")
        moved = self.subject.attack(self._pgd(self.epsilons[-1]))[0][rows]
        with torch.no_grad():
            fell = float((loss_of(moved) < loss_of(self.subject.x[rows]) - 1e-6).float().mean())
        return Check(NAMES[4], fell <= TOLERANCE, fell, "share of attacked rows on which the loss fell")


def full_range(encoding: Encoding, norm: str) -> float:
    """The length of a perturbation that reaches any input from any other."""
    if encoding.array:
        extents = torch.full((torch.Size(encoding.array.shape).numel(),), encoding.array.high - encoding.array.low)
    else:
        extents = torch.tensor([number.high - number.low for number in encoding.numeric] or [0.0])
    return float(extents.max() if norm == "linf" else torch.linalg.vector_norm(extents))


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """`reliable` false when a check failed, else null: not all of the nine are there to run."""
    failed = [each.name for each in checks if not each.passed]
    return {
        "reliable": False if failed else None,
        "checks": [each._asdict() for each in checks],
        "reasons": failed,
    }
