"""A worker as a generator: each `yield` is one transaction, before and after which it may be killed, paused or left without an answer.

It does what workers/slots.py and workers/attempts.py do, in finer steps: what they put into one transaction are several here.
Training is a chain of numbers in which each step depends on all before it. Files are renamed to their keys between two yields.
"""

from collections.abc import Generator
from typing import Any

from service.storage.shards import Claim
from tests.simulator.calls import CLAIM, GHOST, Call, checkpoint_of, model_id
from tests.simulator.checker import Violation
from tests.simulator.rows import NAME

STEPS = (3, 2, 2)  # of each shard; a checkpoint after each but the last
REPORTS = 0  # the shard that also reports progress: one is enough for the history
LOST = object()  # the answer of a transaction that was committed or not, who knows
Asking = Generator[tuple[int, Call], Any, Any]
Files = dict[tuple[int, str], Any]  # of a job


def trained(number: int, steps: int) -> int:
    """What a shard has learnt after so many steps in order."""
    value = number
    for step in range(1, steps + 1):
        value = advance(value, step)
    return value


def advance(value: int, step: int) -> int:
    """What has been learnt after one more step."""
    return (value * 1_000_003 + step) % 2_147_483_647


class Slot:
    """A worker's life: its generator, what it is about to ask and what it was answered but has not heard yet."""

    __slots__ = ("asking", "breaks", "draining", "files", "heard", "name", "paused", "poison", "work")

    def __init__(self, name: str, files: Files, poison: dict[tuple[int, int], str]) -> None:
        self.name = name
        self.files = files
        self.poison = poison
        self.start()

    def start(self) -> None:
        """A fresh process in the place of the old one."""
        self.paused = self.draining = False
        self.breaks: bool | None = None
        self.heard: Any = self  # nothing
        self.work = _life(self)
        self.asking = next(self.work)

    def hear(self, answer: Any) -> None:
        """Go on with the answer to the next transaction."""
        self.heard = self
        self.asking = self.work.send(answer)


def _life(slot: Slot) -> Asking:
    while True:
        found = yield 0, CLAIM
        if found is None or found is LOST:
            continue
        slot.breaks = None
        job, claim = found
        attempt = _publish if claim.kind == "publish" else _train
        yield from attempt(slot, job, claim)
        slot.draining = False


def _surely(job: int, call: Call) -> Asking:
    """The call's answer, asked for again whenever it is lost."""
    while (answer := (yield job, call)) is LOST:
        pass
    return answer


def _ordered(slot: Slot, job: int, claim: Claim, ask: str) -> Asking:
    """`go`, `stop`, or None when the attempt is over."""
    n, fence = claim.number, claim.fence
    orders = yield from _surely(job, Call(ask, n, fence))
    if orders is GHOST or not orders.alive:
        return None
    poison = slot.poison.get((job, n))
    if orders.cancel:
        yield from _surely(job, Call("cancel", n, fence))
    elif slot.draining:
        yield from _surely(job, Call("release", n, fence))
    elif poison == "fails" or slot.breaks is not None:
        yield from _surely(job, Call("fail", n, fence, slot.breaks is not False))
    elif poison != "dies":  # one that dies says nothing
        return "stop" if orders.stop else "go"
    return None


def _resumed(slot: Slot, job: int, claim: Claim) -> Asking:
    """The step and the value that the claim's checkpoint has; None for a ghost, whose files may be gone."""
    held = claim.checkpoint
    if held is None:
        return 0, trained(claim.number, 0)
    at = held["step"], held["value"]
    content = slot.files.get((job, held["key"]))
    if content == at:
        return at
    if (yield from _surely(job, Call("fail", claim.number, claim.fence, True))) is not GHOST:
        raise Violation("P4", f"job {job} shard {claim.number} cannot resume from {held}: its file has {content}")
    return None


def _train(slot: Slot, job: int, claim: Claim) -> Asking:
    n, fence, files = claim.number, claim.fence, slot.files
    at = yield from _resumed(slot, job, claim)
    if at is None:
        return
    step, value = at
    stale = None if claim.checkpoint is None else (job, claim.checkpoint["key"])
    ask = "orders"
    while step < STEPS[n] - 1:
        order = yield from _ordered(slot, job, claim, ask)
        if order is None:
            return
        if order == "stop":
            break
        step, value, ask = step + 1, advance(value, step + 1), "heartbeat"
        key = job, checkpoint_of(NAME, n, step, value, fence)["key"]
        files[key] = (step, value)  # durable before the row names it
        if (yield from _surely(job, Call("checkpoint", n, fence, (step, value, fence)))) is GHOST:
            return
        files.pop(stale, None)
        stale = key
        if step == 1 and (yield from _surely(job, Call("record", n, fence, (step, n == REPORTS)))) is GHOST:
            return
    else:
        order = yield from _ordered(slot, job, claim, ask)
        if order is None:
            return
        step, value = (step + 1, advance(value, step + 1)) if order == "go" else (step, value)
    yield from _surely(job, Call("finish", n, fence, (step, value)))


def _publish(slot: Slot, job: int, claim: Claim) -> Asking:
    order = yield from _ordered(slot, job, claim, "orders")
    if order is None:
        return
    model = job, f"models/{model_id(NAME, claim.fence)}"
    slot.files[model] = claim.results
    said = tuple(tuple(result.values()) for result in claim.results)
    answer = yield from _surely(job, Call("publish", claim.number, claim.fence, said))
    if answer is True:
        for key in [key for key in slot.files if key[0] == job and key[1].startswith("jobs/")]:
            del slot.files[key]
    elif not (yield job, Call("kept", claim.number, claim.fence)):  # unless it was published, and only the answer was lost
        slot.files.pop(model, None)
