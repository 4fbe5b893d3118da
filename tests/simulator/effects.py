"""The log of effects of one schedule: every answer that was not a refusal, in order, judged without the rows."""

from typing import Any, NamedTuple

from tests.simulator.calls import MAX_ATTEMPTS, UNDER_FENCE, Call
from tests.simulator.checker import Violation
from tests.simulator.workers import trained


class Effect(NamedTuple):
    """A call that was committed, with its answer."""

    job: int
    call: Call
    answer: Any


class _Shard:
    """What the log says of a shard so far."""

    def __init__(self) -> None:
        self.fence = 0
        self.barren = 0
        self.checkpoint: tuple[int, int] | None = None
        self.ended = False


def judge(log: list[Effect]) -> None:
    """Raise Violation if the effects of all workers and users together break a promise."""
    shards: dict[tuple[int, int], _Shard] = {}
    cancelled, published = set[int](), set[int]()
    for job, call, answer in log:
        match call.name:
            case "claim":
                _grant(shards.setdefault((job, answer.number), _Shard()), answer, job in cancelled or job in published)
            case "user cancel" if answer is True:
                cancelled.add(job)
            case "user retry":
                cancelled.discard(job)
                for (whose, _), shard in shards.items():
                    shard.barren = 0 if whose == job else shard.barren
            case "publish" if answer is True:
                _require(job not in published and job not in cancelled, "P2", "published twice, or after the cancel", call)
                published.add(job)
        if call.name in UNDER_FENCE:
            _write(shards[job, call.number], call)


def _grant(shard: _Shard, claim: Any, over: bool) -> None:
    _require(claim.fence == shard.fence + 1, "P3", "a fence that is not above all before it", claim)
    _require(not shard.ended and not over, "P2", "a shard was granted that has ended, or its job has", claim)
    held = None if claim.checkpoint is None else (claim.checkpoint["step"], claim.checkpoint["value"])
    _require(held == shard.checkpoint, "P4", "not the newest checkpoint was handed on", claim)
    shard.fence = claim.fence
    shard.barren += 1
    _require(shard.barren <= MAX_ATTEMPTS, "P8", "too many attempts in a row without a checkpoint", claim)


def _write(shard: _Shard, call: Call) -> None:
    _require(call.fence == shard.fence and not shard.ended, "P3", "a write under an old fence", call)
    if call.name == "checkpoint":
        step, value, _ = call.said
        _require(
            shard.checkpoint is None or (step, value) == shard.checkpoint or step > shard.checkpoint[0],
            "P4",
            "a checkpoint goes back",
            call,
        )
        shard.checkpoint, shard.barren = (step, value), 0
    elif call.name == "release":
        shard.barren = max(shard.barren - 1, 0)
    elif call.name == "finish":
        _require(call.said[1] == trained(call.number, call.said[0]), "P4", "a step was skipped or repeated", call)
        shard.ended = True


def _require(holds: bool, promise: str, what: str, which: Any) -> None:
    if not holds:
        raise Violation(promise, f"{what}: {which}")
