"""From a posted robustness job and its model to a plan."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from service.data.fields import Description
from service.errors import Flaw, Invalid, NotFound
from service.resolving import parse
from service.settings import Settings
from service.spec import RobustnessSpec, TrainSpec
from service.tricks.splits import Split, sizes


class Subject(NamedTuple):
    """A stored model as a plan sees it."""

    id: str
    name: str
    dataset_id: str | None
    spec: dict[str, Any]
    members: int


class Known(NamedTuple):
    """What modes need to know of it; which member is best is known to the model's file alone."""

    size: int
    drops: bool
    regression: bool
    best: int = 0


class RobustnessPlan(NamedTuple):
    """The resolved job and its shards of rows, each (first, end)."""

    spec: dict[str, Any]
    name: str
    model_id: str
    dataset_id: str
    shards: tuple[tuple[int, int], ...]


def resolve(raw: Any, lookup: Callable[[str], tuple[Subject, Description]], settings: Settings) -> RobustnessPlan:
    """The plan; raises Invalid, ModeUnavailable, NotFound flaws with their pointers."""
    spec = parse(raw)
    if not isinstance(spec, RobustnessSpec):
        raise Invalid([Flaw("/kind", "unknown-choice", "this is not a robustness job")])
    try:
        subject, description = lookup(spec.model)
    except NotFound as error:
        raise Invalid([Flaw("/model", "not-found", error.detail or "there is no such model")]) from error
    trained = TrainSpec.model_validate(subject.spec)
    spec.axes(Known(subject.members, trained.architecture.drops, any(t.task == "regression" for t in trained.targets or ())))
    rows = min(spec.rows, sizes(trained.split or Split(), description.rows, description.splits)[spec.split])
    if not rows:
        raise Invalid([Flaw("/split", "inconsistent-spec", f"the model's job had no {spec.split} rows")])
    resolved = spec.model_copy(update={"model": subject.id, "name": spec.name or subject.name})
    count = min(settings.shards, rows)
    bounds = [round(i * rows / count) for i in range(count + 1)]
    shards = tuple(pairwise(bounds))
    return RobustnessPlan(resolved.dump(), resolved.name or subject.name, subject.id, subject.dataset_id or "", shards)


def flops(plan: RobustnessPlan, parameters: int) -> int:
    """Floating point operations of all attacks at all epsilons: two per parameter and pass of a row."""
    spec = RobustnessSpec.model_validate(plan.spec)
    passes = sum(attack.passes for attack in spec.attacks) * len(spec.epsilons)
    return 2 * parameters * passes * plan.shards[-1][1]
