"""From a posted spec to a queued job: resolved against what is stored, inserted, announced."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Connection

from service import resolving
from service.data.columns import stored
from service.data.fields import Description
from service.errors import NotFound, QueueFull
from service.estimate import BASE_BYTES
from service.inference import robustness_plan
from service.inference.robustness_plan import RobustnessPlan, Subject
from service.layer_checks import Stored, shapes_of
from service.resolving import Plan, Source
from service.routes.answers import LayerAnswer, PlanAnswer, WarningAnswer
from service.routes.dependencies import Services
from service.storage import datasets, jobs, models
from service.storage.jobs import Job, JobDraft, ShardDraft

T = TypeVar("T")


def plan_of(raw: Any, services: Services, project: str) -> Plan:
    """What the spec comes to, checked whole; raises Invalid."""

    def lookup(ref: str) -> Source:
        with services.database.read() as c:
            dataset = datasets.get(c, project, ref)
        description = Description.model_validate(dataset.description)
        folder = stored(services.store, dataset.id).folder
        return Source(dataset.id, dataset.name, description, folder, declared_targets=not description.guessed)

    def referred(ref: str) -> Stored:
        with services.database.read() as c:
            row = models.get(c, project, ref)
        return Stored(row.id, tuple(shapes_of(network) for network in services.shelf.get(row.id, row.files).networks))

    return resolving.resolve(raw, lookup, services.settings, referred)


def robustness_plan_of(raw: Any, services: Services, project: str) -> RobustnessPlan:
    """What a robustness job comes to, checked whole; raises Invalid, ModeUnavailable, Conflict."""

    def lookup(ref: str) -> Subject:
        with services.database.read() as c:
            row = models.get(c, project, ref)
            description = _description(c, project, row.dataset_id or "")
        return Subject(row.id, row.name, row.dataset_id or "", services.shelf.get(row.id, row.files), description)

    return robustness_plan.resolve(raw, lookup, services.settings)


def _description(c: Connection, project: str, dataset_id: str) -> Description | None:
    try:
        return Description.model_validate(datasets.get(c, project, dataset_id).description)
    except NotFound:
        return None


def accept(
    raw: Any, services: Services, project: str, answered: Callable[[Connection, Job, int | None], T], *, traceparent: str | None
) -> T:
    """What `answered` makes of the job and its place in the queue, in the job's transaction; announced once it is committed.

    The caller's `traceparent`, where there is one, goes with the job to its workers.
    Raises Invalid, Conflict dataset-deleted, QueueFull.
    """
    robustness = isinstance(raw, dict) and raw.get("kind") == "robustness"
    draft, parts = _robustness(raw, services, project) if robustness else _training(raw, services, project)
    if traceparent is not None:
        draft = replace(draft, extra={**draft.extra, "traceparent": traceparent})
    with services.database.write() as c:
        if services.settings.project_jobs and jobs.unfinished(c, project) >= services.settings.project_jobs:
            raise QueueFull(f"The project has {services.settings.project_jobs} unfinished jobs, which is what it may have.")
        job = jobs.get(c, project, jobs.insert(c, project, draft, parts))
        answer = answered(c, job, jobs.queue_position(c, job))
    services.doorbell.ring(len(parts))
    return answer


def _training(raw: Any, services: Services, project: str) -> tuple[JobDraft, list[ShardDraft]]:
    plan = plan_of(raw, services, project)
    spec = plan.spec
    draft = JobDraft(
        kind=plan.kind, name=plan.name, spec=spec, members=sum(map(len, plan.shards)), epochs=spec["epochs"],
        dataset_id=plan.dataset_id, labels=spec["labels"], priority=spec["priority"], models=plan.models,
        extra={"parameters": plan.cost.parameters, **({"models": list(plan.models)} if plan.models else {})},
    )  # fmt: skip
    return draft, [ShardDraft(plan.kind, members) for members in plan.shards]


def _robustness(raw: Any, services: Services, project: str) -> tuple[JobDraft, list[ShardDraft]]:
    plan = robustness_plan_of(raw, services, project)
    spec = plan.spec
    draft = JobDraft(
        kind="robustness", name=plan.name, spec=spec, members=0, epochs=None, dataset_id=plan.dataset_id,
        labels=spec["labels"], priority=spec["priority"], models=(plan.model_id,),
        extra={"model": plan.model_id, "models": [plan.model_id]},
    )  # fmt: skip
    return draft, [ShardDraft("robustness", rows) for rows in plan.shards]


def validated(raw: Any, services: Services, project: str) -> PlanAnswer:
    """What a spec of any kind comes to; raises Invalid."""
    if not isinstance(raw, dict) or raw.get("kind") != "robustness":
        return plan_answer(plan_of(raw, services, project))
    plan = robustness_plan_of(raw, services, project)
    with services.database.read() as c:
        model = models.get(c, project, plan.model_id)
    layers = [LayerAnswer.model_validate(layer) for layer in model.layers]
    network = services.shelf.get(model.id, model.files).networks[0]
    return PlanAnswer(
        spec=plan.spec, layers=layers, parameters=model.parameters, **network.sharing._asdict(),
        memory_bytes=BASE_BYTES + 4 * model.parameters * model.members,
        flops=robustness_plan.flops(plan, model.parameters), steps=0, shards=len(plan.shards), warnings=[],
    )  # fmt: skip


def plan_answer(plan: Plan) -> PlanAnswer:
    """The plan as callers see it."""
    layers = [LayerAnswer(name=each.name, type=each.type, shape=list(each.shape), parameters=each.parameters) for each in plan.layers]
    return PlanAnswer(
        spec=plan.spec,
        layers=layers,
        shards=len(plan.shards),
        warnings=[WarningAnswer(pointer=flaw.pointer, code=flaw.code, message=flaw.message) for flaw in plan.warnings],
        **plan.cost._asdict(),
    )
