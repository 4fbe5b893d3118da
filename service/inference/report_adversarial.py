"""The report's `adversarial_training`: how little answers change around rows, before training and after it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.inference.measuring import Inquiry
from service.inference.report_markup import Html, element, section, table
from service.nets.network import Network
from service.seeds import derive
from service.tricks.adversarial import NoiseTraining, PGDTraining
from service.tricks.ascent import Ball
from service.tricks.divergence import divergence
from service.tricks.multitask import Target

Found = Mapping[str, Any]
ROWS, STEPS = 256, 10
"""Rows of a part that are looked around, and of PGD on the divergence."""


def adversarial_training(inquiry: Inquiry, summaries: Sequence[Found]) -> dict[str, Any] | None:
    """Of the best member and the first target; null without adversarial training.

    `local_constancy` has, `before` any step and `after` training, on `train` and `test`, what changes between x and x + r for
    `random` r of length epsilon and for `adversarial` r, the worst that PGD finds within epsilon: `kl` in nats and `change`,
    the mean absolute difference of probabilities or of numbers in the target's unit.
    """
    rule = inquiry.model.spec.adversarial_training
    if rule is None:
        return None
    # The weights that training began with follow from the member's seed.
    before = inquiry.material.initial(int(summaries[inquiry.model.best]["member"])).eval()
    after = inquiry.model.networks[inquiry.model.best]
    parts = [name for name in ("train", "test") if name in inquiry.parts]
    around = {
        time: {part: _constancy(inquiry, network, part) for part in parts} for time, network in (("before", before), ("after", after))
    }
    rolled = [{"member": summary["member"], **back} for summary in summaries for back in summary.get("rolled_back", ())]
    return {"method": rule.method, "local_constancy": around, "rolled_back": rolled}


def _constancy(inquiry: Inquiry, network: Network, part: str) -> dict[str, Any]:
    """Changes around some rows of a part, evenly spaced."""
    rows, target = inquiry.parts[part], inquiry.targets[0]
    chosen = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(np.int64)]
    x, ball = inquiry.material.rows(chosen)[0].float(), _ball(inquiry)
    inquiry.beat()
    generator = torch.Generator().manual_seed(derive(inquiry.model.spec.seed, 0, f"constancy {part}"))
    with torch.no_grad():
        clean = network(x)[target.name]
    signs = torch.randn(x.shape, generator=generator) if ball.norm != "linf" else torch.rand(x.shape, generator=generator) - 0.5
    signs = signs if ball.movable is None else signs * ball.movable
    random = x + ball.epsilon * ball.shape.direction(signs)
    scale = network.units[inquiry.targets.index(target)]
    away = partial(_away, network, target, clean, len(scale.std))
    worst = PGDTraining(norm=ball.norm, epsilon=ball.epsilon, steps=STEPS).perturb(x, away, ball.movable, [generator])
    found = {name: _changes(network, target, clean, moved, scale.std) for name, moved in (("random", random), ("adversarial", worst))}
    return {"rows": len(x), **found}


def _ball(inquiry: Inquiry) -> Ball:
    """The ball that training moved rows in; noise has that of its standard deviation."""
    rule, movable = inquiry.model.spec.adversarial_training, inquiry.material.movable
    if rule is None:
        raise TypeError("there is no adversarial training")
    return Ball("linf", rule.std, movable) if isinstance(rule, NoiseTraining) else Ball(rule.norm, rule.epsilon, movable)


def _away(network: Network, target: Target, clean: Tensor, width: int, moved: Tensor) -> Tensor:
    """How far answers at moved rows lie from those at clean ones, [N]."""
    return divergence(target, clean, network(moved)[target.name], width=width)


@torch.no_grad()
def _changes(network: Network, target: Target, clean: Tensor, moved: Tensor, std: Tensor) -> dict[str, float]:
    """The mean divergence, and the mean absolute change of what is said."""
    other = network(moved)[target.name]
    before, after = target.read(clean, torch.zeros_like(std), std), target.read(other, torch.zeros_like(std), std)
    if before.logits is not None and after.logits is not None:
        change = (before.logits.softmax(-1) - after.logits.softmax(-1)).abs().mean()
    elif before.mean is not None and after.mean is not None:
        change = (before.mean - after.mean).abs().mean()
    else:
        raise TypeError("a head says classes or numbers")
    return {"kl": float(divergence(target, clean, other, width=len(std)).mean()), "change": float(change)}


def shown(found: Found | None) -> Html:
    """A section of the report's page."""
    if found is None:
        return Html()
    around = found["local_constancy"]
    rows = []
    for part in around["after"]:
        for how in ("random", "adversarial"):
            cells = [around[time][part][how][what] for time in ("before", "after") for what in ("kl", "change")]
            rows.append([f"{part}, {how} r", *cells])
    said = "How far the best member's answers move between a row and the row plus r of the size that was trained on."
    heads = ("around rows of", "KL before", "change before", "KL after", "change after")
    return section("Adversarial training", table(heads, rows), element("p", said), _rolled_back(found["rolled_back"]))


def _rolled_back(found: Sequence[Found]) -> Html:
    """Where one-step training overfitted and went back."""
    if not found:
        return Html()
    rows = [[back[key] for key in ("member", "epoch", "to", "fgsm", "pgd", "pgd_before", "share")] for back in found]
    columns = ("member", "overfit in epoch", "back to", "under FGSM", "under PGD", "under PGD before", "step left")
    return table(columns, rows, caption="roll-backs of catastrophic overfitting")
