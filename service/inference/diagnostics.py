"""Nine checks that an attack was one. A failed check makes a robustness figure unreliable.

After Athalye et al. 2018, Carlini et al. 2019, Croce and Hein 2020 (the flags of AutoAttack) and Pintor et al. 2022
("Indicators of Attack Failure"): unavailable gradients are 5, unstable predictions 6, incomplete optimization 2,
transfer failure 4, failure of the unbounded attack 3. Silent success is out by construction: the first iterate that
breaks a row is what an attack returns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from service.inference.asking import ask, passes
from service.inference.deployed import attacked
from service.inference.masks import drawn
from service.inference.pools import Classes
from service.inference.robustness import Subject
from service.inference.trials import STEPS, Trial, leading
from service.tricks.attacks import PGD, AnyAttack, Corruption, vanished

ROWS = 200
"""Rows that the checks look at; the attacks themselves see all."""
TOLERANCE = 0.05
OVERFITTING_GAP = 0.3
FEWEST_MASKS = 10
"""Masks below which an average of gradients is no expectation over them."""
NAMES = (
    "fgsm_weaker_than_pgd", "converged", "monotone_to_chance", "black_box_weaker_than_white_box", "zero_gradients",
    "passes_agree", "logits_attacked", "noise_weaker_than_attack", "loss_increased",
)  # fmt: skip


class Check(NamedTuple):
    """One check: its name, whether it held, the figure that decided and a sentence."""

    name: str
    passed: bool
    value: float
    message: str


def check(subject: Subject, attacks: Sequence[AnyAttack], epsilons: Sequence[float], reached: Sequence[float] | None = None) -> list[Check]:
    """All nine checks on the subject's rows; none where nothing was attacked.

    `reached`: what the job's attacks left of those rows at each epsilon, in the worst case; None: they are made once more.
    """
    lead, positive = leading(attacks), [epsilon for epsilon in epsilons if epsilon > 0]
    if lead is None or not positive or not bool(subject.right.any()):
        return []
    own = _reached(subject, attacks, positive) if reached is None else list(reached)[-len(positive) :]
    trial = Trial(subject, lead, positive)
    return [
        fgsm_weaker_than_pgd(trial), converged(trial, own), monotone_to_chance(trial), black_box_weaker(trial), zero_gradients(trial),
        passes_agree(trial), logits_attacked(trial), noise_weaker(trial), loss_increased(trial),
    ]  # fmt: skip


def _reached(subject: Subject, attacks: Sequence[AnyAttack], epsilons: Sequence[float]) -> list[float]:
    """The worst case over the job's attacks per epsilon."""
    standing, left = subject.right.clone(), []
    for epsilon in epsilons:
        for attack in attacks:
            if not isinstance(attack, Corruption):
                standing &= subject.attack(attack.sized(epsilon)).standing
        left.append(float(standing.float().mean()))
    return left


def fgsm_weaker_than_pgd(trial: Trial) -> Check:
    """1: one step never beats many; a wide gap after adversarial training is catastrophic overfitting."""
    worst = max(pgd - fgsm for pgd, fgsm in zip(trial.pgd, trial.fgsm, strict=True))
    gap = max(fgsm - pgd for pgd, fgsm in zip(trial.pgd, trial.fgsm, strict=True))
    if trial.subject.model.spec.adversarial_training is not None and gap > OVERFITTING_GAP:
        return Check(NAMES[0], False, gap, "FGSM leaves far more standing than PGD after FGSM training: catastrophic overfitting")
    return Check(NAMES[0], worst <= TOLERANCE, worst, "accuracy under PGD minus accuracy under FGSM, at its largest")


def converged(trial: Trial, own: Sequence[float]) -> Check:
    """2: twice the steps neither save rows nor break many more, and the job's attacks break what the controls break."""
    saved = max(more - fewer for fewer, more in zip(trial.long, trial.longest, strict=True))
    missed = max(fewer - more for fewer, more in zip(trial.long, trial.longest, strict=True))
    if max(saved, missed) > TOLERANCE:
        said = "100 steps leave more rows than 50" if saved > missed else "100 steps break more rows than 50"
        return Check(NAMES[1], False, max(saved, missed), f"{said}: the search has not converged")
    weaker = max(left - found for left, found in zip(own, trial.white_box, strict=True))
    said = "accuracy under the job's attacks minus accuracy under stronger ones, at its largest"
    return Check(NAMES[1], weaker <= 2 * TOLERANCE, max(weaker, saved, missed), said)


def monotone_to_chance(trial: Trial) -> Check:
    """3: accuracy falls with epsilon, and at the full range of the inputs nothing better than chance is left."""
    rises = [later - earlier for earlier, later in pairwise(trial.pgd)]
    if rises and max(rises) > TOLERANCE:
        return Check(NAMES[2], False, max(rises), "accuracy rises with epsilon")
    if not trial.everything_moves:
        return Check(NAMES[2], True, max(rises, default=0.0), "no rise with epsilon; fields that stay may keep it above chance")
    left = trial.left(PGD, trial.full_range, steps=2 * STEPS)
    counts = torch.bincount(trial.subject.truth[trial.subject.truth >= 0])
    chance = float(counts.max() / counts.sum())
    return Check(NAMES[2], left <= chance + TOLERANCE, left, f"accuracy at the full range of the inputs; chance is {chance:.2f}")


def black_box_weaker(trial: Trial) -> Check:
    """4: a search without gradients, and rows made on another network, break no more than the predictor's own gradient."""
    worst = max(trial.white_box[i] - left for i, left in trial.black_box)
    return Check(NAMES[3], worst <= TOLERANCE, worst, "accuracy under gradients minus accuracy under Square or transfer, at its largest")


def zero_gradients(trial: Trial) -> Check:
    """5: a vanishing gradient fakes robustness; so does a cross-entropy that sees less than a margin."""
    share = float(vanished(trial.own.slope).float().mean())
    if share > TOLERANCE:
        return Check(NAMES[4], False, share, "share of rows on which the gradient of the loss is exactly zero")
    apart = max(abs(ce - margin) for ce, margin in zip(trial.pgd, trial.margin, strict=True))
    said = "zero gradients, or accuracy under cross-entropy and margin apart"
    return Check(NAMES[4], apart <= 2 * TOLERANCE, max(share, apart), said)


def passes_agree(trial: Trial) -> Check:
    """6: the same rows get the same answer twice, or the gradient is an expectation over enough masks."""
    subject, axes = trial.subject, trial.subject.axes
    loss_of = subject.loss(torch.arange(len(subject.x)), trial.lead)
    with torch.no_grad():
        pairs = [loss_of.judge().scores(subject.x).softmax(-1) for _ in range(2)]
    pairs += [answer.probabilities for _ in range(2) if isinstance(answer := ask(subject.model, subject.x, axes)[subject.target], Classes)]
    apart = max(float((pairs[0] - pairs[1]).abs().max()), float((pairs[2] - pairs[3]).abs().max()))
    if apart > 1e-4:
        return Check(NAMES[5], False, apart, "the same rows got different answers: a random predictor needs an expectation over its draws")
    masks = drawn(attacked(axes)) if axes.random else 0
    said = f"the gradient is the mean over {masks} masks" if axes.random else "largest difference between two passes"
    return Check(NAMES[5], not axes.random or masks >= FEWEST_MASKS, float(masks) if axes.random else apart, said)


def logits_attacked(trial: Trial) -> Check:
    """7: what is attacked are logits; probabilities taken for logits have gradients that are far too small."""
    subject = trial.subject
    shares = []
    with torch.no_grad():
        for said, _ in passes(subject.model, subject.x, attacked(subject.axes), fresh=False, beat=subject.beat):
            logits = said[subject.target].logits
            if logits is not None:
                inside = (logits.amin((1, 2)) >= 0) & (logits.amax((1, 2)) <= 1) & ((logits.sum(-1) - 1).abs().amax(1) < 1e-2)
                shares += inside.tolist()
    share = sum(shares) / max(1, len(shares))
    return Check(NAMES[6], share == 0, share, "share of networks whose output already is a probability")


def noise_weaker(trial: Trial) -> Check:
    """8: where noise of the same size breaks rows, the attack breaks more."""
    gaps = [min(pgd, fgsm) - noise for pgd, fgsm, noise in zip(trial.pgd, trial.fgsm, trial.noise, strict=True)]
    return Check(NAMES[7], max(gaps) <= 0, max(gaps), "accuracy under attack minus accuracy under noise, at its largest")


def loss_increased(trial: Trial) -> Check:
    """9: the attack raised the loss that it was to raise."""
    fell = trial.own.fell()
    return Check(NAMES[8], fell <= TOLERANCE, fell, "share of attacked rows on which the loss fell")


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """`reliable`: false when a check failed, true when all nine ran and held, else null."""
    failed = [each.name for each in checks if not each.passed]
    ran = {each.name for each in checks} == set(NAMES)
    return {
        "reliable": False if failed else True if ran else None,
        "checks": [each._asdict() for each in checks],
        "reasons": failed,
    }
