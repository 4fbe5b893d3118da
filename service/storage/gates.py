"""Gates of aliases: what a version has to reach before an alias may point at it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Connection

from service.errors import Conflict, Flaw, Invalid, NotFound
from service.flaws import pointer
from service.storage import datasets, jobs
from service.storage.jobs import Filters
from service.storage.models import Model
from service.values import Value

ROBUST = "robust_accuracy"
FRACTIONS = frozenset({"accuracy", "error", "balanced_accuracy", "f1_macro", "auroc", "ece", ROBUST})
"""Metrics from 0 to 1, of which nothing else can be required."""
NEWEST = 100
"""Robustness jobs of a version that are looked at, newest first."""
Limit = Annotated[float, Field(ge=-1e30, le=1e30)]


class Requirement(Value):
    """Bounds on a metric; for `robust_accuracy` also the epsilon at which, and the dataset on which."""

    min: Limit | None = None
    """The least that it may be."""
    max: Limit | None = None
    """The most that it may be."""
    epsilon: Annotated[float, Field(ge=0, le=1e30)] | None = None
    """Of `robust_accuracy`: the size of the perturbation."""
    dataset: str | None = None
    """Of `robust_accuracy`: the id or name of the dataset whose test rows were attacked; null: the model's own."""

    @model_validator(mode="after")
    def _bounds_something(self) -> "Requirement":
        if self.min is None and self.max is None:
            raise PydanticCustomError("missing-field", "a requirement has min, max, or both", {"pointer": "/min"})
        if self.min is not None and self.max is not None and self.min > self.max:
            raise PydanticCustomError("value-out-of-range", "max is less than min, so that nothing is between them", {"pointer": "/max"})
        return self

    def met(self, value: float) -> bool:
        """Whether the value is within the bounds."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def told(self) -> str:
        """The bounds in words."""
        return " and ".join(f"{word} {bound:g}" for word, bound in (("at least", self.min), ("at most", self.max)) if bound is not None)


def check(c: Connection, project: str, model: Model, require: Mapping[str, Requirement]) -> None:
    """Raises Conflict alias-gate-failed with all that is not met, and Invalid where there is no such metric."""
    flaws = [flaw for name, wanted in require.items() for flaw in _flaws(c, project, model, name, wanted)]
    if flaws:
        raise Invalid(flaws)
    failed = [text for name, wanted in require.items() if (text := _failure(c, project, model, name, wanted)) is not None]
    if failed:
        raise Conflict("alias-gate-failed", f"Version {model.version} is not what the alias requires: {'; '.join(failed)}.")


def _flaws(c: Connection, project: str, model: Model, name: str, wanted: Requirement) -> list[Flaw]:
    """What makes no sense of a requirement for this model."""
    here = pointer("require", name)
    beyond = _beyond(here, name, wanted)
    if name != ROBUST:
        extra = [field for field in ("epsilon", "dataset") if getattr(wanted, field) is not None]
        known = sorted(_metrics(model))
        unknown = [] if name in known else [Flaw(here, "unknown-choice", f"there are {ROBUST}, {', '.join(known)}")]
        return unknown + [Flaw(f"{here}/{field}", "unknown-field", f"only {ROBUST} has it") for field in extra] + beyond
    if wanted.epsilon is None:
        return [Flaw(f"{here}/epsilon", "missing-field", "at which epsilon?"), *beyond]
    if wanted.dataset is not None:
        try:
            datasets.get(c, project, wanted.dataset)
        except NotFound:
            return [Flaw(f"{here}/dataset", "not-found", "there is no such dataset"), *beyond]
    return beyond


def _beyond(here: str, name: str, wanted: Requirement) -> list[Flaw]:
    """Bounds that no fraction meets, as 90 where 0.9 is meant."""
    if name.rpartition(".")[2] not in FRACTIONS:
        return []
    message = f"{name} is a fraction, from 0 to 1"
    least = [Flaw(f"{here}/min", "value-out-of-range", message)] if wanted.min is not None and wanted.min > 1 else []
    return least + ([Flaw(f"{here}/max", "value-out-of-range", message)] if wanted.max is not None and wanted.max < 0 else [])


def _failure(c: Connection, project: str, model: Model, name: str, wanted: Requirement) -> str | None:
    """Why the requirement is not met; None: it is."""
    if name == ROBUST:
        return _robustness_failure(c, project, model, wanted)
    value = _metrics(model)[name]
    if value is None:
        return f"{name} on test is not known"
    return None if wanted.met(value) else f"{name} on test is {value:.6g}, not {wanted.told()}"


def _metrics(model: Model) -> dict[str, Any]:
    """The metrics on test, of the mode that answers by default."""
    return dict((model.metrics.get("splits") or {}).get("test") or {})


def _robustness_failure(c: Connection, project: str, model: Model, wanted: Requirement) -> str | None:
    """The newest robustness job decides that has this epsilon on the test rows of that dataset."""
    where = f"at epsilon {wanted.epsilon:g}"
    on = model.dataset_id if wanted.dataset is None else datasets.get(c, project, wanted.dataset).id
    page = jobs.page(c, project, limit=NEWEST, cursor=None, filters=Filters(state="succeeded", kind="robustness", model=model.id))
    for job in page.items:
        result = job.result or {}
        point = next((p for p in result.get("worst_case", ()) if p["epsilon"] == wanted.epsilon and "accuracy" in p), None)
        if point is None or result.get("split") != "test" or job.dataset_id != on:
            continue
        if result.get("reliable") is False:
            return f"the newest robustness result {where} is not reliable: {', '.join(result['reasons'])}"
        value = point["accuracy"]
        return None if wanted.met(value) else f"robust accuracy {where} is {value:.6g}, not {wanted.told()}"
    return f"no robustness job has attacked it {where} on the test rows of that dataset"
