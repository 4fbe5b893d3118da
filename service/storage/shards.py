"""The life of a shard: claimed under a lease, written under a fence, given back or finished.

A worker that lost its lease is a ghost: every write names the fence that it was granted and finds no row once a newer one was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select, text, update

from service.storage import events, logs, metrics, models
from service.storage.folding import DRAINED, LOST, fold, fold_progress, lock_job, lock_shards
from service.storage.metrics import Metric
from service.storage.progress import DONE, KEPT
from service.storage.sessions import AnyRow, now
from service.storage.tables import OPEN, jobs, shards

Engine = dict[str, Any] | Callable[[dict[str, Any], int], dict[str, Any]]


class Ghost(Exception):
    """The shard is no longer this worker's: whatever it still computes must not be written."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard granted to a worker: where it is, the fence of all its writes, and all that an attempt starts from."""

    job_id: str
    number: int
    project: str
    kind: str
    members: tuple[int, ...]
    fence: int
    job_kind: str
    spec: dict[str, Any]
    extra: dict[str, Any]
    dataset_id: str | None
    checkpoint: dict[str, Any] | None
    engine: dict[str, Any]
    results: tuple[dict[str, Any], ...]
    """For a publish shard: the results of the shards that succeeded, by number."""
    elapsed_s: float
    """Seconds since the job's first claim."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the worker of a shard shall do: `alive` is false for a ghost."""

    alive: bool
    cancel: bool
    stop: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a publish shard ends its job with."""

    model: models.ModelDraft | None
    result: dict[str, Any]
    best: dict[str, Any] | None
    stop_reason: str | None


def _candidate(c: Connection, max_attempts: int) -> AnyRow | None:
    """The first shard in line, locked; on PostgreSQL those that others hold are skipped."""
    free = or_(shards.c.state == "queued", and_(shards.c.state == "running", shards.c.lease < now()))
    query = (
        select(shards.c.job_id, shards.c.number, shards.c.state)
        .where(text(f"shards.{OPEN}"), free, shards.c.attempts_without_progress < max_attempts)  # as the index has it
        .order_by(shards.c.priority.desc(), shards.c.created_at, shards.c.job_id, shards.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if c.dialect.name == "postgresql":
        # Statistics of a queue that was empty make the planner sort a burst of thousands for each claim; the index has the order.
        c.execute(text("SET LOCAL enable_sort = off"))
    return c.execute(query).one_or_none()


def claim(c: Connection, owner: str, lease_s: float, *, max_attempts: int, engine: Engine) -> Claim | None:
    """The best waiting shard, now this owner's for `lease_s` seconds; None when nothing waits.

    The engine is kept by the first claim and handed to all later ones, so that resuming cannot change it; it may be chosen
    from the job's `extra` and the number of the shard's members.
    """
    while (found := _candidate(c, max_attempts)) is not None:
        job = lock_job(c, found.job_id)
        if job is not None and job.cancel_requested_at is None and job.state not in DONE:
            return _grant(c, job, found, owner=owner, lease_s=lease_s, engine=engine)
        # Its worker was lost after the job's cancel or failure: nothing is left to do but to close it.
        _at(c, found, state="cancelled", owner=None, lease=None)
        fold(c, found.job_id)
    return None


def _at(c: Connection, found: AnyRow, **values: Any) -> None:
    c.execute(update(shards).where(shards.c.job_id == found.job_id, shards.c.number == found.number).values(values))


def _grant(c: Connection, job: AnyRow, found: AnyRow, *, owner: str, lease_s: float, engine: Engine) -> Claim:
    where = (shards.c.job_id == found.job_id, shards.c.number == found.number)
    granted = {
        "state": "running",
        "owner": owner,
        "fence": shards.c.fence + 1,
        "lease": now() + lease_s,
        "attempts": shards.c.attempts + 1,
        "attempts_without_progress": shards.c.attempts_without_progress + 1,
    }
    row = c.execute(update(shards).where(*where).values(granted).returning(shards)).one()
    chosen = row.engine
    if chosen is None:
        chosen = engine(job.extra, len(row.members)) if callable(engine) else engine
        _at(c, found, engine=chosen)
    begun = {"started_at": func.coalesce(jobs.c.started_at, now()), "heartbeat_at": now()}
    c.execute(update(jobs).where(jobs.c.id == job.id).values(begun))
    fold(c, job.id, back=LOST if found.state == "running" else None)
    return _claimed(c, job, row, chosen)


def _claimed(c: Connection, job: AnyRow, row: AnyRow, engine: dict[str, Any]) -> Claim:
    results: Sequence[dict[str, Any]] = ()
    if row.kind == "publish":
        done = (shards.c.job_id == job.id, shards.c.kind != "publish", shards.c.state == "succeeded")
        results = c.execute(select(shards.c.result).where(*done).order_by(shards.c.number)).scalars().all()
    return Claim(
        job_id=job.id, number=row.number, project=job.project_id, kind=row.kind, members=tuple(row.members), fence=row.fence,
        job_kind=job.kind, spec=job.spec, extra=job.extra, dataset_id=job.dataset_id, checkpoint=row.checkpoint, engine=engine,
        results=tuple(results), elapsed_s=max(job.now - (job.started_at or job.now), 0.0),
    )  # fmt: skip


def _mine(claim: Claim) -> tuple[Any, ...]:
    s = shards.c
    return (s.job_id == claim.job_id, s.number == claim.number, s.fence == claim.fence, s.state == "running")


def _write(c: Connection, claim: Claim, **values: Any) -> None:
    if c.execute(update(shards).where(*_mine(claim)).values(values)).rowcount == 0:
        raise Ghost(f"{claim.job_id} shard {claim.number} fence {claim.fence}")


def orders(c: Connection, claim: Claim) -> Orders:
    """What the worker shall do, by one cheap read."""
    query = select(jobs.c.state, jobs.c.cancel_requested_at, jobs.c.stop_requested_at)
    row = c.execute(query.join(shards, shards.c.job_id == jobs.c.id).where(*_mine(claim))).one_or_none()
    if row is None:
        return Orders(alive=False, cancel=False, stop=False)
    # A job that failed takes its other shards with it.
    return Orders(True, row.cancel_requested_at is not None or row.state == "failed", row.stop_requested_at is not None)


def heartbeat(c: Connection, claim: Claim, lease_s: float, progress: dict[str, Any] | None = None) -> Orders:
    """Renew the lease and return the orders; raises Ghost."""
    _write(c, claim, lease=now() + lease_s, **({} if progress is None else {"progress": progress}))
    fold_progress(c, claim.job_id)
    c.execute(update(jobs).where(jobs.c.id == claim.job_id).values(heartbeat_at=now()))
    return orders(c, claim)


def record(
    c: Connection,
    claim: Claim,
    *,
    progress: dict[str, Any] | None = None,
    values: Sequence[Metric] = (),
    lines: Sequence[tuple[str, str]] = (),
) -> None:
    """Write what the trainer reported since the last time, as rows and as events; raises Ghost."""
    _write(c, claim, **({"fence": claim.fence} if progress is None else {"progress": progress}))
    job = lock_job(c, claim.job_id)
    told: list[tuple[str, dict[str, Any]]] = []
    if values:
        metrics.write(c, claim.project, claim.job_id, values)
        columns = zip(*values, strict=True)
        told.append(("metrics", dict(zip(Metric._fields, map(list, columns), strict=True))))
    if lines:
        logs.write(c, claim.project, claim.job_id, claim.number, lines)
        told += [("log", {"shard": claim.number, "level": level, "message": logs.clean(message)}) for level, message in lines]
    if job is not None and job.state not in DONE:  # of a history, `end` is the last event
        for kind, data in told:
            events.append(c, claim.project, claim.job_id, kind, data)
    fold_progress(c, claim.job_id)


def checkpoint(c: Connection, claim: Claim, record: dict[str, Any]) -> None:
    """Commit a checkpoint whose file is durable: later attempts start here, earlier failures are forgiven; raises Ghost."""
    _write(c, claim, checkpoint=record, attempts_without_progress=0)


def finish(c: Connection, claim: Claim, result: dict[str, Any]) -> None:
    """End a shard that learnt or measured; the last one to end puts the publish shard in line; raises Ghost.

    Where `result` lists `members`, those are what it keeps: after a stop they may be fewer than it was given.
    """
    # Whether the shard is still ours is for the write to say.
    own = (shards.c.job_id == claim.job_id, shards.c.number == claim.number)
    known = c.execute(select(shards.c.progress).where(*own)).scalar_one_or_none() or {}
    kept = {KEPT: len(result["members"])} if isinstance(result.get("members"), list) else {}
    _write(c, claim, state="succeeded", result=result, progress={**known, **kept}, owner=None, lease=None)
    fold(c, claim.job_id)


def publish(c: Connection, claim: Claim, outcome: Outcome) -> bool:
    """End the job with its model, in one transaction; False when a cancel came first and nothing is published; raises Ghost."""
    _write(c, claim, state="succeeded", owner=None, lease=None)
    job = lock_job(c, claim.job_id)
    if job is None or job.cancel_requested_at is not None:
        c.execute(update(shards).where(shards.c.job_id == claim.job_id, shards.c.number == claim.number).values(state="cancelled"))
        fold(c, claim.job_id)
        return False
    also: dict[str, Any] = {"result": outcome.result, "stop_reason": outcome.stop_reason}
    if outcome.best is not None:
        also["best"] = outcome.best
    if outcome.model is not None:
        model = models.insert(c, claim.project, outcome.model, job_id=claim.job_id, dataset_id=claim.dataset_id, labels=job.labels)
        also["model_id"] = model.id
    fold(c, claim.job_id, also=also)
    return True


def fail(c: Connection, claim: Claim, error: dict[str, Any], *, retryable: bool, max_attempts: int) -> bool:
    """End an attempt that broke: True when it is tried again, else the shard and its job have failed; raises Ghost.

    An attempt is tried again unless the same would happen again or `max_attempts` in a row came no further.
    """
    lock_shards(c, claim.job_id)
    barren = c.execute(select(shards.c.attempts_without_progress).where(*_mine(claim))).scalar_one_or_none()
    again = retryable and (barren or 0) < max_attempts
    told = {**error, "retryable": retryable}
    _write(c, claim, state="queued" if again else "failed", error=told, owner=None, lease=None)
    fold(c, claim.job_id, reason=str(error.get("title")) if again else None)
    return again


def cancel(c: Connection, claim: Claim) -> None:
    """End a shard whose trainer was stopped on a cancel; raises Ghost."""
    _write(c, claim, state="cancelled", owner=None, lease=None)
    fold(c, claim.job_id)


def release(c: Connection, claim: Claim) -> None:
    """Give the shard back on a drain, without counting the attempt; raises Ghost."""
    counted = shards.c.attempts_without_progress
    _write(c, claim, state="queued", owner=None, lease=None, attempts_without_progress=case((counted > 0, counted - 1), else_=0))
    fold(c, claim.job_id, back=DRAINED)


def reconcile(c: Connection, max_attempts: int) -> bool:
    """Give back, fail or cancel the shards of one job whose workers are lost; False when there is no such job.

    One job per transaction: the caller asks until nothing is left.
    """
    expired = (shards.c.state == "running", shards.c.lease < now())
    job_id = c.execute(select(shards.c.job_id).where(*expired).order_by(shards.c.job_id).limit(1)).scalar_one_or_none()
    if job_id is None:
        return False
    lock_shards(c, job_id)
    job = lock_job(c, job_id)
    over = job is None or job.cancel_requested_at is not None or job.state == "failed"
    poisonous = shards.c.attempts_without_progress >= max_attempts
    lost = {
        "type": "/problems/worker-lost", "title": LOST.capitalize(), "status": 500, "retryable": True,
        "detail": f"the worker was lost {max_attempts} times in a row before a checkpoint",
    }  # fmt: skip
    state = case((poisonous, "failed"), else_="queued")
    found = c.execute(
        update(shards)
        .where(shards.c.job_id == job_id, *expired)
        .values(state="cancelled" if over else state, error=lost, owner=None, lease=None)
    )
    if found.rowcount:  # else another reconciler was faster, and nothing more was lost
        fold(c, job_id, back=LOST)
    return True


def waiting(c: Connection) -> int:
    """How many shards wait for a worker."""
    return int(c.execute(select(func.count()).where(shards.c.state == "queued")).scalar_one())
