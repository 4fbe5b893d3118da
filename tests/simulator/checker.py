"""What a call may do to a job's rows: the promises P1 to P9, judged on the rows before and after it and on the events it appended."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from service.storage.folding import DRAINED, LOST
from service.storage.progress import DONE
from tests.simulator.calls import GHOST, MAX_ATTEMPTS, UNDER_FENCE, Call, Refusal, checkpoint_of, model_id
from tests.simulator.rows import JobState


class Violation(AssertionError):
    """A promise of the service that was broken."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


class Change(NamedTuple):
    """A call's work on one job; `risen` is by how much its version rose."""

    before: JobState
    call: Call
    answer: Any
    after: JobState
    told: list[Any]
    risen: int

    @property
    def own(self) -> Any:
        """The shard of the claim that the call is made under, as it was before; None for other calls."""
        return self.before.shards[self.call.number] if self.call.name in (*UNDER_FENCE, "orders") else None

    @property
    def over(self) -> bool:
        """Whether the job's shards had nothing left to do."""
        return self.before.job.cancel_requested_at is not None or self.before.done


def require(holds: Any, promise: str, what: str, change: Change) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(promise, f"{what}\ncall   {change.call} -> {change.answer!r}\nbefore {change.before}\nafter  {change.after}")


# Each rule below says what holds of every change.


def ghosts_change_nothing(x: Change) -> None:
    own = x.own
    if own is None:
        return
    mine = own.fence == x.call.fence and own.state == "running"
    refused = x.answer == GHOST or (x.call.name == "orders" and not x.answer.alive)
    require(mine or refused, "P3", "a worker that lost its shard was not told so", x)
    require(mine or (x.before == x.after and not x.told), "P3", "a worker that lost its shard wrote", x)
    require(not (mine and refused), "P1", "a worker was refused its own shard", x)


def refusals_change_nothing(x: Change) -> None:
    if isinstance(x.answer, Refusal):
        require(x.before == x.after and not x.told, "P9", "a refusal changed something", x)


def shards_go_their_way(x: Change) -> None:
    require(len(x.before.shards) <= len(x.after.shards), "P1", "a shard is gone", x)
    for old, new in zip(x.before.shards, x.after.shards, strict=False):
        if old != new:
            require(_may(x, old, new.state), "P9", f"shard {old.number} may not go from {old.state} to {new.state}", x)
    for new in x.after.shards[len(x.before.shards) :]:
        require(new.kind == "publish" and new.state == "queued" and new.fence == 0, "P9", "a new shard", x)


def _may(x: Change, old: Any, state: str) -> bool:
    """Whether the call may bring the shard to that state."""
    call = x.call.name
    own = call in UNDER_FENCE and old.number == x.call.number
    lost = old.lease == "expired" and call in ("claim", "reconcile")
    match old.state, state:
        case "queued", "running":
            return call == "claim"
        case "running", "running":
            return own or (lost and call == "claim")
        case "running", "queued":
            return (own and call in ("release", "fail")) or (lost and call == "reconcile")
        case "running", "succeeded":
            return own and call in ("finish", "publish")
        case "running", "failed":
            return (own and call == "fail") or (lost and call == "reconcile" and old.attempts_without_progress >= MAX_ATTEMPTS)
        case "running", "cancelled":
            ended = (own and call in ("cancel", "publish")) or (lost and call == "claim") or _may(x, old, "queued")
            return (own and call == "cancel") or (ended and (x.over or x.after.done))
        case "queued", "cancelled":
            left_out = call == "user stop" and old.kind == "train" and old.checkpoint is None
            return left_out or call == "user cancel" or x.over or x.after.done
        case (("failed" | "cancelled"), "queued"):
            return call == "user retry" or (old.kind == "publish" and call in ("finish", "user stop"))
        case (("failed" | "cancelled"), "cancelled"):  # it waits for what is tried again with it
            return call == "user retry" and old.kind == "publish"
    return False


def fences_and_attempts_count_grants(x: Change) -> None:
    for old, new in zip(x.before.shards, x.after.shards, strict=False):
        granted = x.call.name == "claim" and x.answer is not None and x.answer.number == old.number
        require(new.fence == old.fence + granted, "P3", "a fence rises by one with each grant and only then", x)
        require(new.attempts == new.fence, "P9", "attempts are grants", x)
        own = x.call.number == old.number and x.answer != GHOST
        barren = old.attempts_without_progress
        if granted:
            barren += 1
        elif (own and x.call.name == "checkpoint") or (
            x.call.name == "user retry" and old.state in ("failed", "cancelled") and x.answer is None
        ):
            barren = 0
        elif own and x.call.name == "release":
            barren = max(barren - 1, 0)
        require(new.attempts_without_progress == barren, "P8", f"shard {new.number} came to {barren} barren attempts", x)


def checkpoints_and_results_are_their_owners(x: Change) -> None:
    for old, new in zip(x.before.shards, x.after.shards, strict=False):
        own = x.call.number == old.number and x.answer != GHOST
        if own and x.call.name == "checkpoint":
            wanted = checkpoint_of(new.job_id, new.number, *x.call.said)
            require(json.loads(new.checkpoint) == wanted, "P4", "the checkpoint is not the one that was written", x)
        else:
            require(new.checkpoint == old.checkpoint, "P4", "a checkpoint changed by itself", x)
        if not (own and x.call.name == "finish"):
            require(new.result == old.result, "P2", "a result changed by itself", x)


def rows_are_whole(x: Change) -> None:
    for shard in x.after.shards:
        running = shard.state == "running"
        require((shard.lease is not None) == running == (shard.owner is not None), "P7", "a lease is held while running, and only then", x)
        require((shard.result is not None) == (shard.state == "succeeded" and shard.kind != "publish"), "P2", "a result without its end", x)
        claimable = shard.state == "queued" and shard.attempts_without_progress >= MAX_ATTEMPTS
        require(not claimable, "P1", "a queued shard that nobody will claim", x)
    job, states = x.after.job, [shard.state for shard in x.after.shards]
    require((job.finished_at is not None) == x.after.done, "P9", "finished_at", x)
    require(x.after.state not in ("succeeded", "cancelled") or not x.after.open, "P1", "an ended job with open shards", x)
    require(x.after.state != "failed" or ("failed" in states and "queued" not in states), "P8", "a failed job", x)
    require(x.after.state != "failed" or json.loads(job.error)["type"], "P8", "a failed job without its cause", x)
    require(x.after.done or x.over or "failed" not in states, "P8", "a failed shard in an open job", x)
    if job.cancel_requested_at is not None:
        wanted = "cancelling" if "running" in states else "cancelled"
        require(x.after.state == wanted, "P6", "a cancelled job", x)
    elif not x.after.done:
        require(x.after.open, "P1", "an open job with no open shard", x)
        require("running" not in states or x.after.state == "running", "P9", "a job with a running shard runs", x)


def publishers_come_last(x: Change) -> None:
    publishers = [shard for shard in x.after.shards if shard.kind == "publish"]
    require(len(publishers) <= 1, "P2", "two publishers", x)
    open_ = [shard for shard in x.after.shards if shard.kind == "train" and shard.state not in ("succeeded", "cancelled")]
    for publisher in publishers:
        require(publisher.state not in ("queued", "running", "succeeded") or not open_, "P2", "a publisher before its time", x)


def models_come_once(x: Change) -> None:
    published = x.call.name == "publish" and x.answer is True
    require(len(x.after.models) == len(x.before.models) + published, "P2", "a model comes with its publisher only", x)
    require(len(x.after.models) == (x.after.state == "succeeded"), "P2", "a job that succeeded has one model, all others none", x)
    if published:
        own, job = x.own, x.after.job
        require(job.model_id == x.after.models[0].id == model_id(own.job_id, own.fence), "P3", "the model is another publisher's", x)
        parts = [json.loads(shard.result) for shard in x.before.shards if shard.kind == "train" and shard.state == "succeeded"]
        require(json.loads(job.result)["parts"] == [[*part.values()] for part in parts], "P2", "the result is not the shards'", x)
        whole = len(parts) == len(x.before.shards) - 1 or job.stop_requested_at is not None
        require(whole, "P1", "a part is missing though nobody stopped the job", x)


def cancels_are_final(x: Change) -> None:
    before, after, call = x.before, x.after, x.call.name
    if call == "user cancel":
        refused = isinstance(x.answer, Refusal)
        require(refused == (before.state in ("succeeded", "failed")), "P6", "a cancel is refused when the job ended otherwise", x)
        require(refused or x.answer == (before.state != "cancelled"), "P6", "a cancel's answer", x)
        require(refused or after.job.cancel_requested_at is not None, "P6", "a cancel that was accepted is kept", x)
    elif before.job.cancel_requested_at is not None and call != "user retry":
        require(after.state in ("cancelling", "cancelled"), "P6", "a cancelled job ended otherwise", x)
        granted = call == "claim" and x.answer is not None
        require(not granted, "P6", "a shard of a cancelled job was granted", x)
        if call in ("orders", "heartbeat") and x.answer != GHOST and x.answer.alive:
            require(x.answer.cancel, "P6", "a worker was not told of the cancel", x)


def claims_take_the_first(x: Change) -> None:
    if x.call.name != "claim":
        return
    waits = [s for s in x.before.shards if s.state == "queued" or (s.state == "running" and s.lease == "expired")]
    waits = [s for s in waits if s.attempts_without_progress < MAX_ATTEMPTS and not x.over]
    require((x.answer is not None) == bool(waits), "P1", "a claim finds what waits", x)
    if x.answer is not None:
        old = waits[0]
        require(x.answer.number == old.number, "P9", "a claim takes the first", x)
        held = None if old.checkpoint is None else json.loads(old.checkpoint)
        require(x.answer.checkpoint == held, "P4", "a claim hands on the newest checkpoint", x)
        done = [json.loads(s.result) for s in x.before.shards if s.kind == "train" and s.state == "succeeded"]
        require([*x.answer.results] == (done if old.kind == "publish" else []), "P2", "a publisher gets all results", x)


def reconcilers_find_the_lost(x: Change) -> None:
    if x.call.name == "reconcile":
        lost = [[shard for shard in state.shards if shard.lease == "expired"] for state in (x.before, x.after)]
        require(x.answer == bool(lost[0]), "P7", "a reconciler finds shards whose lease ran out", x)
        require(not lost[1], "P7", "a reconciler leaves none", x)


def failures_are_counted(x: Change) -> None:
    if x.call.name == "fail" and x.answer != GHOST:
        again = x.call.said and x.own.attempts_without_progress < MAX_ATTEMPTS
        require(x.answer == again, "P8", "an attempt is tried again while it may come further", x)


def users_are_heard(x: Change) -> None:
    before, states = x.before, {shard.state for shard in x.before.shards}
    refused = isinstance(x.answer, Refusal)
    if x.call.name == "user stop":
        require(refused == (before.state != "running"), "P9", "a running job can be stopped", x)
        require(refused or x.after.job.stop_requested_at is not None, "P9", "a stop is kept", x)
    elif x.call.name == "user retry":
        ready = before.state in ("failed", "cancelled") and "running" not in states
        require(refused != ready, "P9", "an ended job can be tried again", x)
        require(refused or (x.after.state == "queued" and x.after.open), "P1", "a job that is tried again waits", x)


def history_is_told(x: Change) -> None:
    require([event.number for event in x.told] == [*range(1001, 1001 + len(x.told))], "P9", "event numbers have a gap", x)
    state, job = x.before.state, x.after.job
    for event in x.told:
        if event.kind == "state":
            require(_follows(x, state, event.data), "P9", f"after {state} came {event.data}", x)
            state = event.data["state"]
    require(state == job.state, "P9", f"the history says {state}", x)
    ends = [n for n, event in enumerate(x.told) if event.kind == "end"]
    ended = x.after.done and not x.before.done
    require(ends == ([len(x.told) - 1] if ended else []), "P9", "one end, the last event", x)
    require(not x.before.done or x.call.name == "user retry" or not x.told, "P9", "an event after the end", x)
    shown = ("state", "phase", "reason", "attempt", "progress", "best", "model_id", "result", "error", "stop_reason")
    changed = any(getattr(x.before.job, name) != getattr(job, name) for name in shown)
    require(x.risen >= int(changed), "P9", "a change without a new version", x)


def _follows(x: Change, state: str, told: dict[str, Any]) -> bool:
    call, then = x.call.name, told["state"]
    if then == "queued" != state:
        lost = told["reason"] == LOST and call in ("claim", "reconcile")
        drained = told["reason"] == DRAINED and call == "release"
        return (state == "running" and (lost or drained)) or (state in ("failed", "cancelled") and call == "user retry")
    following = {
        "queued": ("queued", "running", "cancelled"),
        "running": ("running", "cancelling", *DONE),
        "cancelling": ("cancelling", "cancelled"),
    }
    return then in following.get(state, ())


RULES: tuple[Callable[[Change], None], ...] = (
    ghosts_change_nothing, refusals_change_nothing, shards_go_their_way, fences_and_attempts_count_grants,
    checkpoints_and_results_are_their_owners, rows_are_whole, publishers_come_last, models_come_once, cancels_are_final,
    claims_take_the_first, reconcilers_find_the_lost, failures_are_counted, users_are_heard, history_is_told,
)  # fmt: skip


def judge(change: Change) -> None:
    """Raise Violation if the change breaks a promise."""
    for rule in RULES:
        rule(change)
