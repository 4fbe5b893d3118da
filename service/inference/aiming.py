"""Aiming an attack at a model: whether it suits it, the class it is to reach, and whose gradient it follows."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from service.errors import invalid
from service.inference.asking import quiet
from service.inference.boxes import placed
from service.inference.deployed import Deployed, DeployedNumbers, source_axes
from service.inference.model import Model
from service.inference.pools import Answer, Classes
from service.inference.rows import category_text
from service.tricks.attacks import AnyAttack, Corruption
from service.tricks.modes import Axes
from service.tricks.perturbation import LEAST_LIKELY

LossOf = Deployed | DeployedNumbers


class Predictor(NamedTuple):
    """What answers: a model at a point of its axes, for one target; `beat` as of `ask`."""

    model: Model
    axes: Axes
    target: str
    beat: Callable[[], None] = quiet


def check_attack(attack: AnyAttack, model: Model, axes: Axes, target: str, *, where: str = "/attack") -> None:
    """Raises Invalid where the attack does not suit the model, at the field that is wrong."""
    placed(attack, model, where=where)
    if isinstance(attack, Corruption):
        return
    source_axes(attack.source, axes, model, where=where)
    names = classes_of(model, target)
    if attack.classes_only and names is None:
        raise invalid(f"{where}/type", "inconsistent-spec", "a number has no classes, and no boundary between them")
    goal_index(attack.target, names, where=f"{where}/target")


def classes_of(model: Model, target: str) -> tuple[str, ...] | None:
    """The classes of a target; None: it is a number."""
    return next(names for each, names in zip(model.spec.targets or (), model.classes, strict=True) if each.name == target)


def goal_index(label: object, names: tuple[str, ...] | None, *, where: str) -> int | None:
    """The index of the class to reach, None for the least likely one or any other; raises Invalid."""
    if label is None or (label == LEAST_LIKELY and names is not None):
        return None
    if names is None:
        raise invalid(where, "inconsistent-spec", "a number has no class to reach")
    text = category_text(label)
    if text not in names:
        raise invalid(where, "unknown-choice", f'a target is null, "least_likely" or one of {", ".join(names[:20])}')
    return names.index(str(text))


def aimed(attack: AnyAttack, predictor: Predictor, labels: Tensor, clean: Answer, chosen: Tensor | None = None) -> LossOf:
    """The loss of rows, or of some of them, with what the attack wants of it; `clean` is what the predictor said of all rows."""
    model, axes, target, beat = predictor
    source = None if isinstance(attack, Corruption) else source_axes(attack.source, axes, model)
    chosen = torch.arange(len(labels)) if chosen is None else chosen
    if not isinstance(clean, Classes):
        return DeployedNumbers(model, axes, target, labels[chosen], beat=beat, source=source)
    goals = None
    if not isinstance(attack, Corruption) and attack.target is not None:
        index = goal_index(attack.target, classes_of(model, target), where="/attack/target")
        goals = clean.probabilities.argmin(-1)[chosen] if index is None else torch.full_like(chosen, index)
    return Deployed(model, axes, target, labels[chosen], beat=beat, goals=goals, source=source)
