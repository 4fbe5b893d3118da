"""Jobs: inserted whole with their shards, read, listed, stopped, cancelled, tried again and deleted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy import insert as insert_into

from service.errors import Conflict, NotFound
from service.storage import events, pages
from service.storage.folding import fold, lock_job, lock_shards
from service.storage.ids import new_id, valid
from service.storage.pages import Page
from service.storage.progress import DONE
from service.storage.sessions import AnyRow, now
from service.storage.tables import datasets, jobs, models, shards


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job that was checked whole; `extra` is what its references resolved to, handed to the trainer as it is."""

    kind: str
    name: str
    spec: dict[str, Any]
    members: int
    epochs: int | None
    dataset_id: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    """Ids of stored models that training needs; `extra` names them too."""


@dataclass(frozen=True, slots=True)
class ShardDraft:
    """A part of a job: `train` with its member numbers, or `robustness` with the first and the end of its rows."""

    kind: str
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands; times are epoch seconds."""

    id: str
    project_id: str
    kind: str
    name: str
    state: str
    phase: str | None
    reason: str | None
    version: int
    attempt: int
    priority: int
    spec: dict[str, Any]
    extra: dict[str, Any]
    dataset_id: str | None
    labels: dict[str, str]
    created_at: float
    started_at: float | None
    heartbeat_at: float | None
    finished_at: float | None
    cancel_requested_at: float | None
    stop_requested_at: float | None
    progress: dict[str, Any]
    progressed_at: float | None
    best: dict[str, Any] | None
    stop_reason: str | None
    model_id: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.state in DONE


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list of jobs is narrowed to; None and empty narrow nothing."""

    state: str | None = None
    kind: str | None = None
    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    model: str | None = None
    """The model that a robustness job is about."""


def insert(c: Connection, project: str, draft: JobDraft, parts: Sequence[ShardDraft]) -> str:
    """The id of the job, now queued with its shards; raises Conflict dataset-deleted, model-deleted."""
    _hold(c, draft.dataset_id, draft.models)
    job_id, at = new_id("job"), c.execute(select(now())).scalar_one()
    progress = {
        "fraction": 0.0, "epoch": 0, "epochs": draft.epochs, "members_done": 0, "members": draft.members, "eta_s": None,
    }  # fmt: skip
    c.execute(
        insert_into(jobs).values(
            id=job_id, project_id=project, kind=draft.kind, name=draft.name, state="queued", phase="waiting", version=1,
            attempt=1, priority=draft.priority, spec=draft.spec, extra=draft.extra, dataset_id=draft.dataset_id,
            labels=draft.labels, created_at=at, progress=progress,
        )
    )  # fmt: skip
    common = {"job_id": job_id, "project_id": project, "priority": draft.priority, "created_at": at, "state": "queued"}
    rows = [
        {**common, "number": number, "kind": part.kind, "members": list(part.members), "fence": 0, "attempts": 0,
         "attempts_without_progress": 0}
        for number, part in enumerate(parts)
    ]  # fmt: skip
    c.execute(insert_into(shards), rows)
    events.append(c, project, job_id, "state", {"state": "queued", "phase": "waiting", "reason": None, "attempt": 1})
    return job_id


def _hold(c: Connection, dataset_id: str | None, model_ids: Iterable[str]) -> None:
    """Keep what a job is made from till the transaction ends; raises Conflict dataset-deleted, model-deleted."""
    held = select(datasets.c.id).where(datasets.c.id == dataset_id).with_for_update(read=True, key_share=True)
    if dataset_id is not None and c.execute(held).one_or_none() is None:
        raise Conflict("dataset-deleted", "the dataset was deleted meanwhile")
    for model_id in sorted(model_ids):
        if c.execute(select(models.c.id).where(models.c.id == model_id).with_for_update(read=True, key_share=True)).one_or_none() is None:
            raise Conflict("model-deleted", "a model that the job refers to was deleted meanwhile")


def get(c: Connection, project: str, job_id: str) -> Job:
    """The job; raises NotFound."""
    query = select(jobs).where(jobs.c.id == job_id, jobs.c.project_id == project)
    row = c.execute(query).one_or_none() if valid("job", job_id) else None
    if row is None:
        raise NotFound("there is no such job")
    return Job(**row._mapping)


def page(c: Connection, project: str, *, limit: int, cursor: str | None, filters: Filters | None = None) -> Page[Job]:
    """Jobs, newest first; raises BadCursor."""
    wanted = filters or Filters()
    where = [jobs.c[name] == value for name in ("state", "kind", "name") if (value := getattr(wanted, name)) is not None]
    where.append(pages.labelled(jobs, wanted.labels))
    if wanted.model is not None:
        where.append(jobs.c.extra["model"].as_string() == wanted.model)
    rows, following = pages.fetch(c, jobs, project, limit=limit, cursor=cursor, where=where)
    return Page(tuple(Job(**row._mapping) for row in rows), following)


def queue_position(c: Connection, job: Job) -> int | None:
    """The job's place among those that wait, from 1; None when it does not wait."""
    if job.state != "queued":
        return None
    j = jobs.c
    earlier = or_(j.created_at < job.created_at, and_(j.created_at == job.created_at, j.id < job.id))
    ahead = or_(j.priority > job.priority, and_(j.priority == job.priority, earlier))
    return int(c.execute(select(func.count()).where(j.state == "queued", ahead)).scalar_one()) + 1


def unfinished(c: Connection, project: str) -> int:
    """How many jobs of the project have not ended."""
    query = select(func.count()).where(jobs.c.project_id == project, jobs.c.state.in_(("queued", "running", "cancelling")))
    return int(c.execute(query).scalar_one())


def _held(c: Connection, project: str, job_id: str) -> AnyRow:
    """The job's row with all its locks; raises NotFound."""
    get(c, project, job_id)
    lock_shards(c, job_id)
    row = lock_job(c, job_id)
    if row is None:
        raise NotFound("there is no such job")
    return row


def cancel(c: Connection, project: str, job_id: str) -> bool:
    """Ask the job to end cancelled, at once when no shard runs; False when it was cancelled before.

    Raises NotFound, Conflict already-terminal.
    """
    job = _held(c, project, job_id)
    if job.state == "cancelled":
        return False
    if job.state in DONE:
        raise Conflict("already-terminal", f"the job has {job.state}")
    if job.cancel_requested_at is None:
        c.execute(update(shards).where(shards.c.job_id == job_id, shards.c.state == "queued").values(state="cancelled"))
        c.execute(update(jobs).where(jobs.c.id == job_id).values(cancel_requested_at=now()))
        fold(c, job_id)
    return True


def stop(c: Connection, project: str, job_id: str) -> None:
    """Ask the job to finish with what it has; members that never began are left out.

    Raises NotFound, Conflict not-running, already-terminal.
    """
    job = _held(c, project, job_id)
    if job.state in DONE:
        raise Conflict("already-terminal", f"the job has {job.state}")
    if job.state != "running":
        raise Conflict("not-running", f"the job is {job.state}")
    if job.stop_requested_at is not None:
        return
    s = shards.c
    unbegun = (s.job_id == job_id, s.kind == "train", s.state == "queued", s.checkpoint.is_(None))
    begun = select(s.number).where(s.job_id == job_id, or_(s.state != "queued", s.checkpoint.is_not(None))).limit(1)
    if c.execute(begun).one_or_none() is not None:
        c.execute(update(shards).where(*unbegun).values(state="cancelled"))
    c.execute(update(jobs).where(jobs.c.id == job_id).values(stop_requested_at=now()))
    fold(c, job_id, reason="stop requested")


def retry(c: Connection, project: str, job_id: str) -> None:
    """Put a failed or cancelled job back in line, to go on from its checkpoints.

    Raises NotFound, Conflict not-retryable, dataset-deleted, model-deleted.
    """
    job = _held(c, project, job_id)
    if job.state not in ("failed", "cancelled"):
        raise Conflict("not-retryable", f"the job is {job.state}: only a failed or cancelled one can be tried again")
    s = shards.c
    running = select(s.number).where(s.job_id == job_id, s.state == "running").limit(1)
    if c.execute(running).one_or_none() is not None:
        raise Conflict("not-retryable", "a part of the job is still being stopped")
    _hold(c, job.dataset_id, job.extra.get("models") or [model for model in [job.extra.get("model")] if model is not None])
    again = {"state": "queued", "owner": None, "lease": None, "error": None, "attempts_without_progress": 0}
    c.execute(update(shards).where(s.job_id == job_id, s.state != "succeeded").values(again))
    fresh = {"state": "queued", "cancel_requested_at": None, "stop_requested_at": None, "finished_at": None, "error": None}
    c.execute(update(jobs).where(jobs.c.id == job_id).values(fresh))
    fold(c, job_id, reason="retried")


def delete(c: Connection, project: str, job_id: str) -> None:
    """Remove a job that has ended, with its history; raises NotFound, Conflict job-running."""
    job = _held(c, project, job_id)
    if job.state not in DONE:
        raise Conflict("job-running", f"the job is {job.state}: cancel it first")
    c.execute(delete_from(jobs).where(jobs.c.id == job_id))
