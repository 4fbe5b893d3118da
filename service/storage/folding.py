"""A job's state and progress, folded from its shards in the transaction that writes a shard.

Rows are locked in one order everywhere, a job's shards by number and then the job, so that no two writers wait for each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from service.storage import events, logs
from service.storage.progress import DONE, phase_of, progress_of, trained
from service.storage.sessions import AnyRow, now
from service.storage.tables import jobs, shards

LOST = "worker lost"
DRAINED = "worker drained"
PROGRESS_EVERY_S = 0.5


def lock_shards(c: Connection, job_id: str) -> None:
    """Hold all shards of the job till the transaction ends."""
    c.execute(select(shards.c.number).where(shards.c.job_id == job_id).order_by(shards.c.number).with_for_update())


def lock_job(c: Connection, job_id: str) -> AnyRow | None:
    """The job's row and the time `now`, held till the transaction ends; None when it was deleted."""
    query = select(jobs, now().label("now")).where(jobs.c.id == job_id)
    return c.execute(query.with_for_update(key_share=True)).one_or_none()


def _parts(c: Connection, job_id: str) -> Sequence[AnyRow]:
    s = shards.c
    query = select(s.number, s.kind, s.state, s.members, s.attempts, s.progress, s.error)
    return c.execute(query.where(s.job_id == job_id).order_by(s.number)).all()


def fold(c: Connection, job_id: str, *, back: str | None = None, reason: str | None = None, also: Mapping[str, Any] | None = None) -> None:
    """Bring the job up to its shards: state, phase, attempt, progress, best, one version and the events.

    `back` says why a shard went back to the queue by itself, `reason` is for people, `also` are further columns of the job.
    """
    job = lock_job(c, job_id)
    if job is None:
        return
    if job.state in DONE:  # what comes back to a job that has ended is not claimed again
        _close_queued(c, job_id)
        return
    parts = _parts(c, job_id)
    state = _state(job, parts, back)
    if state not in DONE:
        _line_up_publish(c, job, parts)
    fresh: dict[str, Any] = {
        "state": state,
        "phase": phase_of(job, state, parts),
        "attempt": max([1, *(part.attempts for part in parts)]),
        "reason": back if back and state == "queued" else reason,
        **progress_of(job, parts, state),
        **(also or {}),
    }
    if state in DONE:
        fresh["finished_at"] = job.now
        _close_queued(c, job_id)
    if state == "failed":
        fresh |= _failure(c, job_id, parts)
    went_on = back == LOST and state == "running"
    if went_on:  # the job never stood still, yet its history tells of the loss and of the going on
        lost = {"state": "queued", "phase": "waiting", "reason": back, "attempt": job.attempt}
        events.append(c, job.project_id, job_id, "state", lost)
    _commit(c, job, fresh, went_on)


def fold_progress(c: Connection, job_id: str) -> None:
    """Bring only progress, best and phase up, at most every half second."""
    job = lock_job(c, job_id)
    if job is None or job.state in DONE:
        return
    if job.progressed_at is not None and 0 <= job.now - job.progressed_at < PROGRESS_EVERY_S:
        return
    parts = _parts(c, job_id)
    _commit(c, job, {"phase": phase_of(job, job.state, parts), **progress_of(job, parts, job.state)})


def _commit(c: Connection, job: AnyRow, fresh: Mapping[str, Any], went_on: bool = False) -> None:
    """Write what changed, with its events, or nothing at all; a job that `went_on` after a loss says so in any case."""
    before = job._mapping
    changed = {name: value for name, value in fresh.items() if before[name] != value}
    if not changed and not went_on:
        return
    after = {**before, **changed}
    told = changed.keys() & {"progress", "best", "phase"}
    if told:
        changed["progressed_at"] = job.now
    c.execute(update(jobs).where(jobs.c.id == job.id).values(version=job.version + 1, **changed))
    if went_on or changed.keys() & {"state", "attempt", "reason"}:
        events.append(c, job.project_id, job.id, "state", {name: after[name] for name in ("state", "phase", "reason", "attempt")})
    if told and after["state"] not in DONE:
        data = {**after["progress"], "phase": after["phase"], "best": after["best"]}
        events.append(c, job.project_id, job.id, "progress", data)
    if after["state"] in DONE:
        end = {"state": after["state"], "model": after["model_id"], "stop_reason": after["stop_reason"], "error": after["error"]}
        events.append(c, job.project_id, job.id, "end", end)


def _state(job: AnyRow, parts: Sequence[AnyRow], back: str | None) -> str:
    running = any(part.state == "running" for part in parts)
    if job.cancel_requested_at is not None:
        return "cancelling" if running else "cancelled"
    if any(part.state == "failed" for part in parts):
        return "failed"
    if any(part.kind == "publish" and part.state == "succeeded" for part in parts):
        return "succeeded"
    if running:
        return "running"
    # Between two of its shards a job goes on running: only a lost or drained worker sends it back.
    return "queued" if back else str(job.state)


def _close_queued(c: Connection, job_id: str) -> None:
    c.execute(update(shards).where(shards.c.job_id == job_id, shards.c.state == "queued").values(state="cancelled"))


def _line_up_publish(c: Connection, job: AnyRow, parts: Sequence[AnyRow]) -> None:
    """Put the publish shard in line once all is learnt; one that a retry put back too early waits as cancelled, and keeps its fence."""
    publisher = next((part for part in parts if part.kind == "publish"), None)
    ready = trained(parts)
    if publisher is None:
        if ready:
            _insert_publish(c, job, len(parts))
        return
    early = publisher.state == "queued" and any(part.kind != "publish" and part.state in ("queued", "running") for part in parts)
    if ready or early:
        mine = (shards.c.job_id == job.id, shards.c.number == publisher.number)
        c.execute(update(shards).where(*mine).values(state="queued" if ready else "cancelled"))


def _insert_publish(c: Connection, job: AnyRow, number: int) -> None:
    c.execute(
        insert(shards).values(
            job_id=job.id, number=number, project_id=job.project_id, kind="publish", members=[], priority=job.priority,
            created_at=job.created_at, state="queued", fence=0, attempts=0, attempts_without_progress=0,
        )
    )  # fmt: skip


def _failure(c: Connection, job_id: str, parts: Sequence[AnyRow]) -> dict[str, Any]:
    error = next(part.error for part in parts if part.state == "failed") or {}
    return {"reason": error.get("title"), "error": {**error, "log": logs.tail(c, job_id)}}
