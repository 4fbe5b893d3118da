"""From a posted robustness job and its model to a plan."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from service.data.fields import Description
from service.errors import Conflict, Flaw, Invalid, NotFound
from service.inference.aiming import check_attack
from service.inference.asking import check_axes
from service.inference.model import Model
from service.resolving import parse
from service.settings import Settings
from service.spec import RobustnessSpec
from service.tricks.splits import Split, sizes


class Subject(NamedTuple):
    """A stored model, loaded, and what is known of the dataset it was trained on (None: it is gone)."""

    id: str
    name: str
    dataset_id: str
    model: Model
    description: Description | None


class RobustnessPlan(NamedTuple):
    """The resolved job and its shards of rows, each (first, end)."""

    spec: dict[str, Any]
    name: str
    model_id: str
    dataset_id: str
    shards: tuple[tuple[int, int], ...]


def resolve(raw: Any, lookup: Callable[[str], Subject], settings: Settings) -> RobustnessPlan:
    """The plan, checked whole; raises Invalid, ModeUnavailable, Conflict dataset-deleted."""
    spec = parse(raw)
    if not isinstance(spec, RobustnessSpec):
        raise Invalid([Flaw("/kind", "unknown-choice", "this is not a robustness job")])
    try:
        subject = lookup(spec.model)
    except NotFound as error:
        raise Invalid([Flaw("/model", "not-found", "there is no such model")]) from error
    if subject.description is None:
        raise Conflict("dataset-deleted", "The dataset that the model was trained on was deleted.")
    axes = spec.axes(subject.model)
    check_axes(subject.model, axes)
    for i, attack in enumerate(spec.attacks):
        check_attack(attack, subject.model, axes, (subject.model.spec.targets or ())[0].name, where=f"/attacks/{i}")
    rows = _rows(spec, subject.model, subject.description)
    mode = spec.mode if axes.mode == "custom" else axes.mode
    resolved = spec.model_copy(update={"model": subject.id, "name": spec.name or subject.name, "mode": mode})
    bounds = [round(i * rows / min(settings.shards, rows)) for i in range(min(settings.shards, rows) + 1)]
    return RobustnessPlan(resolved.dump(), resolved.name or subject.name, subject.id, subject.dataset_id, tuple(pairwise(bounds)))


def _rows(spec: RobustnessSpec, model: Model, description: Description) -> int:
    rows = min(spec.rows, sizes(model.spec.split or Split(), description.rows, description.splits)[spec.split])
    if not rows:
        raise Invalid([Flaw("/split", "inconsistent-spec", f"the model's job had no {spec.split} rows")])
    return rows


def flops(plan: RobustnessPlan, parameters: int) -> int:
    """Floating point operations of all attacks at all epsilons: two per parameter and pass of a row."""
    spec = RobustnessSpec.model_validate(plan.spec)
    passes = sum(attack.passes * len(attack.sizes(spec.epsilons)) for attack in spec.attacks)
    return 2 * parameters * passes * plan.shards[-1][1]
