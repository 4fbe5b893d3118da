"""A job's phase, progress and best, as its shards report them."""

from collections.abc import Sequence
from typing import Any

from service.storage.sessions import AnyRow

DONE = ("succeeded", "failed", "cancelled")
PHASES = ("waiting", "preparing", "training", "retraining", "evaluating", "publishing")
KEPT = "members_kept"
"""In a shard's progress, once it has ended: how many of its members have something to keep."""
RISING = frozenset({"accuracy", "balanced_accuracy", "f1_macro", "auroc", "r2"})  # metrics of which more is better


def trained(parts: Sequence[AnyRow]) -> bool:
    """Whether all that is to be learnt is there and nobody publishes it yet (shards that a stop left out are cancelled)."""
    if any(part.kind == "publish" and part.state != "cancelled" for part in parts):
        return False
    states = {part.state for part in parts if part.kind != "publish"}
    return "succeeded" in states and states <= {"succeeded", "cancelled"}


def phase_of(job: AnyRow, state: str, parts: Sequence[AnyRow]) -> str | None:
    """What a job in that state is doing: the phase of its furthest running shard; None when it is done."""
    if state in DONE:
        return None
    if state == "queued":
        return "waiting"
    running = [part for part in parts if part.state == "running"]
    if not running:
        return "publishing" if trained(parts) else job.phase
    phases = [_reported(part, "phase") or ("publishing" if part.kind == "publish" else "preparing") for part in running]
    return max(phases, key=lambda phase: PHASES.index(phase) if phase in PHASES else 0)


def _reported(part: AnyRow, name: str) -> Any:
    return (part.progress or {}).get(name)


def progress_of(job: AnyRow, parts: Sequence[AnyRow], state: str) -> dict[str, Any]:
    """The columns `progress` and `best`: fractions weigh by members, the epoch is the mean of the members not yet done."""
    learning = [part for part in parts if part.kind != "publish"]
    members = sum(len(part.members) for part in learning)
    over = {part.number for part in learning if part.state in _over(job)}
    fraction = sum(len(part.members) * (1.0 if part.number in over else _reported(part, "fraction") or 0.0) for part in learning)
    etas = [eta for part in parts if part.state == "running" and (eta := _reported(part, "eta_s")) is not None]
    progress = {
        **job.progress,
        "fraction": 1.0 if state == "succeeded" else round(fraction / max(members, 1), 6),
        "epoch": _epoch(learning, over) or job.progress["epoch"],
        "members_done": _members_done(job, learning, over),
        "eta_s": None if state in DONE else max(etas, default=None),
    }
    return {"progress": progress, "best": _best(parts) or job.best}


def _over(job: AnyRow) -> tuple[str, ...]:
    """The states of shards of which no more is to come: those that a stop left out too, but nothing that a cancel cut short."""
    return ("succeeded",) if job.cancel_requested_at is not None else ("succeeded", "cancelled")


def _members_done(job: AnyRow, learning: Sequence[AnyRow], over: set[int]) -> int:
    if any(part.kind != "train" for part in learning):  # shards of rows: each holds all members
        return int(job.progress["members"]) if len(over) == len(learning) else 0
    return sum(_kept(part) if part.state == "succeeded" else _reported(part, "members_done") or 0 for part in learning)


def _kept(part: AnyRow) -> int:
    """Members of a shard that succeeded of which there is something: all, unless a stop came before an epoch of theirs."""
    known = _reported(part, KEPT)
    return len(part.members) if known is None else int(known)


def _epoch(learning: Sequence[AnyRow], over: set[int]) -> int:
    open_ = [part for part in learning if part.number not in over and part.progress]
    weights = [max(len(part.members) - (_reported(part, "members_done") or 0), 0) for part in open_]
    if not sum(weights):
        return max((int(_reported(part, "epoch") or 0) for part in learning), default=0)
    return int(sum(w * (_reported(part, "epoch") or 0) for w, part in zip(weights, open_, strict=True)) / sum(weights))


def _best(parts: Sequence[AnyRow]) -> dict[str, Any] | None:
    """The best of the shards' best values; ties go to the earlier shard."""
    known = [best for part in parts if (best := _reported(part, "best")) and best.get("value") is not None]
    if not known:
        return None
    sign = -1 if str(known[0]["metric"]).rpartition(".")[2] in RISING else 1
    chosen: dict[str, Any] = min(known, key=lambda best: sign * best["value"])
    return chosen
