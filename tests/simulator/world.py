"""Two jobs, and what each call does to them: executed as real SQL when it is first met in a state, remembered from then on.

A call reads and writes one job, but for `claim` and `reconcile`, which take the first job that has something for them: so what is
remembered is per job. Every execution has both jobs in the database and must leave the other one as it was; `Shadow` plays whole schedules
on one database throughout and compares.
"""

from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

from service.storage.shards import Claim
from tests.simulator.calls import CLAIM, RECONCILE, Call
from tests.simulator.checker import Change, Violation, judge
from tests.simulator.guards import Guard
from tests.simulator.ledger import JOBS, Ledger, Told
from tests.simulator.rows import NAME, JobState, aged, named

At = list[int]
"""Which state each job is in: places in `World.states`."""


class Step(NamedTuple):
    """What a call does to a job in one state: the state afterwards and the answer."""

    after: int
    answer: Any


class World:
    """All states that were reached so far and the steps between them; `executed` counts steps done by SQL."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.ledger = Ledger(guard)
        self.executed = 0
        self.states: list[JobState] = []
        self.digests: list[int] = []
        self._places: dict[JobState, int] = {}
        self._steps: dict[tuple[int, Call], Step] = {}
        self._aged: dict[int, int] = {}
        self.first = [self._place(state) for state in self.ledger.read()]
        assert len({*self.first}) == 1, "the jobs differ by more than their ids"

    def begin(self) -> At:
        """Both jobs just accepted."""
        return [*self.first]

    def jobs(self, at: At) -> list[JobState]:
        """The jobs' rows."""
        return [self.states[place] for place in at]

    def act(self, at: At, job: int, call: Call) -> Any:
        """The call's answer; `at` then is what the call made of the job."""
        step = self._steps.get((at[job], call)) or self._execute(at, job, call)
        at[job] = step.after
        return step.answer

    def claim(self, at: At, owner: str) -> tuple[int, Claim] | None:
        """The first job that has a shard for the worker, and the claim."""
        for job in range(JOBS):
            claim = self.act(at, job, CLAIM)
            if claim is not None:
                return job, claim
        return None

    def reconcile(self, at: At) -> bool:
        """Whether a job had shards of lost workers."""
        return any(self.act(at, job, RECONCILE) for job in range(JOBS))

    def tick(self, at: At) -> None:
        """Let time pass till every lease that was not renewed has run out."""
        for job, place in enumerate(at):
            if (after := self._aged.get(place)) is None:
                after = self._aged[place] = self._place(aged(self.states[place]))
            at[job] = after

    def close(self) -> None:
        """Give the database's memory back."""
        self.ledger.close()

    def _place(self, state: JobState) -> int:
        place = self._places.setdefault(state, len(self.states))
        if place == len(self.states):
            self.states.append(state)
            self.digests.append(int.from_bytes(blake2b(repr(state).encode(), digest_size=7).digest()))
        return place

    def _execute(self, at: At, job: int, call: Call) -> Step:
        before = self.jobs(at)
        answer, after, told, risen = self.ledger.step(before, job, call)
        self.executed += 1
        whose = self._whose(job, call, answer, [a != b or bool(t) for a, b, t in zip(before, after, told, strict=True)])
        if whose != job:  # this job had nothing; what the next one does is looked at in its own turn
            answer = None if call == CLAIM else False
        answer = _unnamed(answer)
        for other in range(job if call in (CLAIM, RECONCILE) else JOBS):
            if other != job and (before[other] != after[other] or told[other]):
                raise Violation("P8", f"{call} on job {job} changed job {other}")
        judge(Change(before[job], call, answer, after[job], told[job], risen[job]))
        step = self._steps[at[job], call] = Step(self._place(after[job]), answer)
        return step

    def _whose(self, job: int, call: Call, answer: Any, touched: list[bool]) -> int:
        """The job that the answer is about."""
        whose = job
        if call == CLAIM and answer is not None:
            whose = self.ledger.ids.index(answer.job_id)
        elif call == RECONCILE and answer:
            whose = next((n for n, was in enumerate(touched) if was), job)
        if whose < job:
            raise Violation("P1", f"{call} left job {whose} alone and took it afterwards")
        return whose


def _unnamed(answer: Any) -> Any:
    """The answer with the id that jobs have in states."""
    if not isinstance(answer, Claim):
        return answer
    held = answer.checkpoint and {**answer.checkpoint, "key": named(answer.checkpoint["key"], answer.job_id, NAME)}
    return replace(answer, job_id=NAME, checkpoint=held, elapsed_s=0.0)


class Shadow:
    """The same world, in which every call is also made on one database from first to last, with a clock that goes on."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world, self._ledger = world, ledger
        self.digests = world.digests

    def begin(self) -> At:
        """Both jobs just accepted."""
        self._ledger.ticks = 0
        self._ledger.load(self._world.jobs(self._world.first), 1)
        return self._world.begin()

    def jobs(self, at: At) -> list[JobState]:
        """The jobs' rows."""
        return self._world.jobs(at)

    def act(self, at: At, job: int, call: Call) -> Any:
        """As the world's; AssertionError where the database says otherwise."""
        answer = self._world.act(at, job, call)
        self._compare(at, call, answer, self._ledger.perform(job, call))
        return answer

    def claim(self, at: At, owner: str) -> tuple[int, Claim] | None:
        """As the world's."""
        found = self._world.claim(at, owner)
        self._compare(at, CLAIM, found and found[1], self._ledger.perform(0, CLAIM._replace(said=owner)))
        return found

    def reconcile(self, at: At) -> bool:
        """As the world's."""
        found = self._world.reconcile(at)
        self._compare(at, RECONCILE, found, self._ledger.perform(0, RECONCILE))
        return found

    def tick(self, at: At) -> None:
        """As the world's."""
        self._world.tick(at)
        self._ledger.ticks += 1

    def history(self, job: int) -> list[Told]:
        """All events of the job."""
        return self._ledger.events(job)

    def _compare(self, at: At, call: Call, remembered: Any, real: Any) -> None:
        assert remembered == _unnamed(real), (call, remembered, real)
        assert tuple(self.jobs(at)) == self._ledger.read(), call
