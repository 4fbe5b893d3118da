"""Catastrophic overfitting of `fast` adversarial training: seen by PGD on validation rows, undone by going back.

A network can learn to break the one step that it trains on: accuracy under FGSM rises while PGD takes nearly all of it.
Wong et al. 2020 (section 5) look at PGD on a minibatch and stop at a fall of .2; here the member goes back to the epoch that
resisted best and trains on with half the step, since overfitting comes with long ones.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.inference.material import Material
from service.inference.quick import known, quick_sums
from service.nets.network import Network
from service.tricks.adversarial import FastTraining, FGSMTraining, PGDTraining
from service.tricks.ascent import Loss
from service.tricks.dropout import SCALED
from workers.training.evaluation import Values
from workers.training.objective import DataLoss
from workers.training.run import Run

FALL = 0.2
"""By how much the score under PGD has to fall, and its distance to that under one step to grow (Wong et al. 2020's threshold)."""
ROWS, STEPS = 256, 10
"""Of the batch that is watched, and of PGD on it."""


class Scores(NamedTuple):
    """Each member's score of the first target on the batch under FGSM and under PGD: accuracy, or 1 - mse in normalized units."""

    fgsm: list[float]
    pgd: list[float]


class Watch:
    """A batch of validation rows, or of training rows where there are none, evenly spaced; `beat` is called before each attack."""

    def __init__(self, material: Material, loss: DataLoss, rule: FastTraining, device: torch.device, beat: Callable[[], None]) -> None:
        part = material.parts.validation if len(material.parts.validation) else material.parts.train
        chosen = part[np.linspace(0, len(part) - 1, min(ROWS, len(part))).round().astype(np.int64)]
        x, labels = material.rows(chosen)
        self._x = x.to(device, torch.float32)
        mirrored = material.mirror(x) if material.mirrored else {}
        self._labels = {name: values.to(device) for name, values in (labels | mirrored).items()}
        self._loss, self._beat = loss, beat
        self._target = loss.targets[0]
        self._attacks = [
            FGSMTraining(norm=rule.norm, epsilon=rule.epsilon),
            PGDTraining(norm=rule.norm, epsilon=rule.epsilon, steps=STEPS),
        ]
        self._truth = known(self._target, self._labels[self._target.name])
        self.score = "accuracy" if "hits" in self._target.scored else "r2"

    def scores(self, network: Network, movable: Tensor | None) -> Scores:
        """Of each member, in evaluation mode; both attacks start at the clean rows, so that nothing is random."""
        was = network.training
        network.eval()
        count = network.members
        x = self._x if count is None else self._x.expand(count, *self._x.shape)
        labels = {name: values if count is None else values.expand(count, *values.shape) for name, values in self._labels.items()}
        rows = x.shape[: 1 if count is None else 2]
        loss_of: Loss = lambda moved: self._loss(network(moved.unflatten(0, rows), SCALED), labels).sum()  # noqa: E731
        found = []
        for attack in self._attacks:
            self._beat()
            moved = attack.perturb(x.flatten(0, len(rows) - 1), loss_of, movable).unflatten(0, rows)
            with torch.no_grad():
                raw = network(moved, SCALED)[self._target.name]
            found.append([self._scored(own, network) for own in ([raw] if count is None else raw)])
        network.train(was)
        return Scores(*found)

    def _scored(self, raw: Tensor, network: Network) -> float:
        """The mean over rows with a label."""
        mirrors = "normalized" in self._target.scored
        std = network.units[0].std
        sums = quick_sums(self._target, raw, self._truth, std if mirrors else torch.ones_like(std))
        rows = float(sums["rows"]) or math.nan
        if self.score == "accuracy":
            return float(sums["hits"]) / rows
        return 1 - float(sums["normalized" if mirrors else "squares"]) / rows

    def judge(self, run: Run, place: int, scores: Scores, values: Values) -> str | None:
        """Note the scores; take the member back where it overfits, which is what is returned in words."""
        guard, fgsm, pgd = run.members[place].guard, scores.fgsm[place], scores.pgd[place]
        values[f"validation.fgsm_{self.score}"], values[f"validation.pgd_{self.score}"] = fgsm, pgd
        if not guard.overfits(fgsm, pgd, FALL):
            if guard.epoch == 0 or pgd >= guard.pgd:
                guard.epoch, guard.fgsm, guard.pgd = run.epoch, fgsm, pgd
                guard.tensors = {name: tensor.detach().clone() for name, tensor in run.state(place).items()}
            return None
        if run.settle is not None:
            run.settle()
            run.settle = None
        with torch.no_grad():
            for name, tensor in run.state(place).items():
                tensor.copy_(guard.tensors[name])
        guard.share /= 2
        found = {"epoch": run.epoch, "to": guard.epoch, "fgsm": fgsm, "pgd": pgd, "pgd_before": guard.pgd, "share": guard.share}
        guard.rolled_back.append(found)
        return (
            f"member {run.members[place].number} overfits to its one step in epoch {run.epoch}: under PGD {pgd:.3g}, in epoch "
            f"{guard.epoch} {guard.pgd:.3g}, under FGSM {fgsm:.3g}; back to the weights of then, with {guard.share:g} of the step"
        )


def watch_of(material: Material, loss: DataLoss, device: torch.device, beat: Callable[[], None]) -> Watch | None:
    """What watches the training of a spec, where it trains on one step from random starts."""
    rule = material.spec.adversarial_training
    return Watch(material, loss, rule, device, beat) if isinstance(rule, FastTraining) else None
