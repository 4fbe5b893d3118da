"""P5: clients that submit the same job under the same Idempotency-Key, through APIs that die, pause and lose answers.

Few rows and few steps: every transaction of every interleaving is executed, nothing is remembered.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import Any

from service.errors import IdempotencyInProgress
from service.storage import idempotency, jobs
from service.storage.idempotency import Kept, Place
from service.storage.jobs import JobDraft, ShardDraft
from tests.simulator.calls import PROJECT
from tests.simulator.checker import Violation
from tests.simulator.guards import Guard
from tests.simulator.ledger import Ledger
from tests.simulator.rows import LEASE_S
from tests.simulator.workers import LOST

KEYS = ("red", "green")
CLIENTS = 4  # the same request from every second one, as from a client that tries again and a proxy that does too
BUSY = object()  # the answer 409
FAULTS = ("tick", "tick", "die before", "die after", "lose", "pause", "resume")
OWNER, UNANSWERED = r"idempotency\.owner = \?", r"idempotency\.status IS NULL"
EITHER = "its owner and its being unanswered each keep a second job out"
GUARDS = (
    Guard("release", "DELETE FROM idempotency", UNANSWERED),
    Guard("create", "UPDATE idempotency SET", OWNER, EITHER),
    Guard("create", "UPDATE idempotency SET", UNANSWERED, EITHER),
)


@dataclass
class Api:
    """One request in one API process: its steps, what it is about to do, and the job that its client was told of."""

    key: str
    work: Any
    asking: tuple[str, str]
    paused: bool = False
    told: str | None = None


def request() -> Generator[tuple[str, str], Any, str]:
    """What an API does for a POST, again and again until the client has its job's id."""
    while True:
        found = yield "reserve", ""
        if isinstance(found, Kept):
            return found.body
        if found is BUSY or found is LOST:
            continue
        yield "renew", found
        made = yield "create", found
        if isinstance(made, Kept):
            return made.body
        yield "release", found


class Submitting:
    """One interleaving of the clients, drawn from a seed."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.random = Random(seed)
        self.ledger = ledger
        ledger.ticks = 0
        ledger.clear()
        self.apis = [Api(KEYS[n % 2], None, ("", "")) for n in range(CLIENTS)]
        for api in self.apis:
            _start(api)

    def run(self) -> None:
        """Play it out; raises Violation."""
        for _ in range(self.random.randrange(5, 40)):
            api = self.random.choice(self.apis)
            if self.random.random() < 0.3:
                self._strike(self.random.choice(FAULTS), api)
            elif not api.paused:
                self._turn(api, self._transact(api))
            self._judge()
        for _ in range(20):  # no more faults
            for api in self.apis:
                self._turn(api, self._transact(api))
            self.ledger.ticks += 1
        self._judge()
        if any(api.told is None for api in self.apis):
            raise Violation("P5", "a client never got its answer")

    def _turn(self, api: Api, answer: Any) -> None:
        if api.told is None:
            try:
                api.asking = api.work.send(answer)
            except StopIteration as done:
                api.told = done.value

    def _strike(self, fault: str, api: Api) -> None:
        if fault == "tick":
            self.ledger.ticks += 1
        elif fault in ("pause", "resume"):
            api.paused = fault == "pause"
        elif api.told is None:
            answer = None if fault == "die before" else self._transact(api)
            if fault == "lose" and answer is not BUSY:
                self._turn(api, LOST)
            else:
                _start(api)

    def _transact(self, api: Api) -> Any:
        step, owner = api.asking
        place = Place(PROJECT, "POST /jobs", api.key)
        if api.told is not None:
            return None
        try:
            with self.ledger.transaction(step) as c:
                match step:
                    case "reserve":
                        return idempotency.reserve(c, place, LEASE_S)
                    case "renew":
                        return idempotency.renew(c, place, owner, LEASE_S)
                    case "release":
                        return idempotency.release(c, place, owner)
                job = jobs.insert(c, PROJECT, JobDraft("train", api.key, {}, 1, 1), [ShardDraft("train", (0,))])
                kept = Kept("", 202, None, job)
                idempotency.keep(c, place, owner, kept)
                return kept
        except IdempotencyInProgress:
            return BUSY

    def _judge(self) -> None:
        made = self.ledger.names()
        for key in KEYS:
            mine = [job for job, name in made if name == key]
            if len(mine) > 1:
                raise Violation("P5", f"{len(mine)} jobs for one key")
            if not {api.told for api in self.apis if api.key == key and api.told is not None} <= {*mine}:
                raise Violation("P5", "a client was told of another job")


def _start(api: Api) -> None:
    """The client sends its request (again)."""
    api.work, api.paused = request(), False
    api.asking = next(api.work)


def submit(seeds: int, guard: Guard | None = None) -> tuple[int, Violation] | None:
    """The first of so many seeds that breaks P5, and how."""
    with closing(Ledger(guard)) as ledger:
        for seed in range(seeds):
            try:
                Submitting(ledger, seed).run()
            except Violation as violation:
                return seed, violation
    return None
