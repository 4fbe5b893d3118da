"""One interleaving: a seed decides who acts next, what breaks and what users ask, until the faults stop and all jobs must end."""

from random import Random
from typing import Any, NamedTuple

from tests.simulator import effects
from tests.simulator.calls import CLAIM, Call, Refusal
from tests.simulator.checker import Violation
from tests.simulator.effects import Effect
from tests.simulator.ledger import JOBS, TRAINING
from tests.simulator.workers import LOST, Files, Slot
from tests.simulator.world import Shadow, World

WORKERS = 3
FAULTS = (
    "tick", "tick", "reconcile", "kill before", "kill after", "lose", "pause", "pause after", "resume", "resume", "drain", "break", "ruin",
    "outlive", "user cancel", "user stop", "user retry", "user retry",
)  # fmt: skip
CALM = (0.01, 0.02, 0.03, 0.05)
STORM = (0.1, 0.2, 0.4)
STORMS = 0.01  # share of the seeds
LENGTHS = (25, 75)  # acts, before the faults stop
POISONED = 0.1
LATE = 0.4  # share of the workers that join a storm only when something wakes them
USERS = {name: Call(name) for name in FAULTS if name.startswith("user")}
ROUNDS = 20
PATIENCE = 200  # turns of a worker in a round after the faults, far above what a job needs


class Trace(NamedTuple):
    """What came of a schedule. Its identity says who changed which rows to what, in order: two that differ in idle acts alone are one."""

    identity: int
    calls: int


class Schedule:
    """The run of one seed in a world; `storms` is the share of seeds with many faults, and `faults` are those that may be."""

    def __init__(self, world: World | Shadow, seed: int, *, storms: float = STORMS, faults: tuple[str, ...] = FAULTS) -> None:
        self.world = world
        self.random = Random(seed)
        self.faults = faults
        self.at = world.begin()
        self.files: Files = {}
        self.log: list[Effect] = []
        self.calls = 0
        self.stormy = self.random.random() < storms
        self.rate = self.random.choice(STORM if self.stormy else CALM)
        poison = {}
        if self.random.random() < POISONED:
            poison[self.random.randrange(JOBS), self.random.randrange(TRAINING + 1)] = self.random.choice(("dies", "fails"))
        self.slots = [Slot(f"worker {n}", self.files, poison) for n in range(WORKERS)]
        for slot in self.slots:
            slot.paused = self.stormy and self.random.random() < LATE

    def run(self) -> Trace:
        """Play it out; raises Violation."""
        trace = self._disturb()
        self._settle()
        effects.judge(self.log)
        for number, job in enumerate(self.world.jobs(self.at)):
            for model in job.models:
                if (number, f"models/{model.id}") not in self.files:
                    raise Violation("P3", f"the files of {model.id} are gone")
        for slot in self.slots:
            slot.work.close()
        return Trace(hash(tuple(trace)), self.calls)

    def _disturb(self) -> list[int]:
        """The part with faults; who changed the rows, and to what."""
        chance, slots, digests, rate = self.random.random, self.slots, self.world.digests, self.rate
        faults = self.random.sample(self.faults, self.random.randint(1, len(self.faults)))
        trace: list[int] = []
        last = [*self.at]
        for _ in range(self.random.randrange(*LENGTHS)):
            who = int(chance() * WORKERS)
            if chance() < rate:
                fault = faults[int(chance() * len(faults))]
                self._strike(fault, who)
                who += WORKERS * (FAULTS.index(fault) + 1)
            elif not slots[who].paused:
                self._turn(slots[who])
            if self.at != last:
                last = [*self.at]
                trace += (who, digests[last[0]], digests[last[1]])
        return trace

    def _turn(self, slot: Slot) -> None:
        """The worker's next transaction and what it does on its answer."""
        slot.hear(self._transact(slot) if slot.heard is slot else slot.heard)

    def _transact(self, slot: Slot) -> Any:
        job, call = slot.asking
        if call is not CLAIM:
            return self._ask(job, call)
        self.calls += 1
        found = self.world.claim(self.at, slot.name)
        if found is not None:
            self.log.append(Effect(found[0], CLAIM, found[1]))
        return found

    def _ask(self, job: int, call: Call) -> Any:
        self.calls += 1
        answer = self.world.act(self.at, job, call)
        if type(answer) is not Refusal:
            self.log.append(Effect(job, call, answer))
        return answer

    def _strike(self, fault: str, n: int) -> None:
        if fault in USERS:
            self._ask(n % JOBS, USERS[fault])
        elif fault in ("tick", "reconcile", "outlive"):
            self.slots[n].paused |= fault == "outlive"  # it stops for longer than its lease, and is missed
            if fault != "reconcile":
                self.world.tick(self.at)
            if fault != "tick":
                self.calls += 1
                self.world.reconcile(self.at)
        else:
            self._hit(self.slots[n], fault)

    def _hit(self, slot: Slot, fault: str) -> None:
        asks = slot.heard is slot  # a transaction lies before it
        match fault:
            case "kill before":
                slot.start()
            case "kill after":
                if asks:
                    self._transact(slot)
                slot.start()
            case "lose" if asks and not slot.paused:
                self._transact(slot)
                slot.hear(LOST)
            case "pause after" if asks and not slot.paused:
                slot.heard, slot.paused = self._transact(slot), True
            case "pause" | "resume":
                slot.paused = fault == "pause"
            case "drain":
                slot.draining = True
            case "break" | "ruin":  # its trainer fails: another attempt may fare better, or not
                slot.breaks = fault == "break"

    def _settle(self) -> None:
        """No more faults: workers work, time passes, the reconciler looks; all jobs end."""
        for slot in self.slots:
            slot.paused = slot.draining = False
            slot.breaks = None
        for _ in range(PATIENCE if self.stormy else 0):  # all at once; otherwise one worker after the other
            for slot in self.slots:
                self._turn(slot)
            if all(slot.heard is slot and slot.asking[1] is CLAIM for slot in self.slots):
                break
        for _ in range(ROUNDS):
            for slot in self.slots:
                self._exhaust(slot)
            if all(job.done and not job.open for job in self.world.jobs(self.at)):
                return
            self.world.tick(self.at)
            if all(self.world.reconcile(self.at) for _ in range(JOBS + 1)):
                raise Violation("P7", "the reconciler never comes to an end")
        raise Violation("P1", f"a job does not end: {self.world.jobs(self.at)}")

    def _exhaust(self, slot: Slot) -> None:
        for _ in range(PATIENCE):
            idle = slot.heard is slot and slot.asking[1] is CLAIM
            self._turn(slot)
            if idle and slot.asking[1] is CLAIM:
                return
        raise Violation("P1", f"a worker is never done: {slot.asking}")
