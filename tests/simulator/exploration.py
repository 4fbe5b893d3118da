"""Many schedules: played until so many different ones were seen, some of them a second time on one real database throughout."""

import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice
from multiprocessing import get_context

from tests.simulator.checker import Violation
from tests.simulator.guards import Guard
from tests.simulator.ledger import JOBS, Ledger
from tests.simulator.schedule import FAULTS, Schedule
from tests.simulator.world import Shadow, World

REPLAYED = 500  # one schedule of so many


@dataclass
class Report:
    """What was explored: different interleavings, the calls in them and those executed as SQL, replays, and what broke with which seed."""

    interleavings: set[int] = field(default_factory=set)
    seeds: int = 0
    calls: int = 0
    executed: int = 0
    states: int = 0
    replays: int = 0
    violations: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Report") -> None:
        """Count another process's part in."""
        self.interleavings |= other.interleavings
        for name in ("seeds", "calls", "executed", "states", "replays", "violations"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def explore(wanted: int, first: int = 0, every: int = 1) -> Report:
    """Play seeds `first`, `first + every`, … until `wanted` different interleavings were seen."""
    began, report = time.monotonic(), Report()
    with closing(World()) as world, closing(Ledger()) as ledger:
        for seed in count(first, every):
            try:
                trace = Schedule(world, seed).run()
                report.interleavings.add(trace.identity)
                report.calls += trace.calls
                if report.seeds % REPLAYED == 0:
                    replay(Shadow(world, ledger), seed)
                    report.replays += 1
            except Violation as violation:
                report.violations.append((seed, str(violation)))
            report.seeds += 1
            if len(report.interleavings) + len(report.violations) >= wanted:
                break
        report.executed, report.states, report.seconds = world.executed, len(world.states), time.monotonic() - began
    return report


def replay(shadow: Shadow, seed: int) -> None:
    """Play the seed on one database from first to last; AssertionError where that differs or a history has a gap."""
    Schedule(shadow, seed).run()
    for job in range(JOBS):
        told = shadow.history(job)
        assert [event.number for event in told] == [*range(1, len(told) + 1)], (seed, told)
        assert told[-1].kind == "end", (seed, told)


def explore_apart(wanted: int, processes: int, first: int = 0) -> Report:
    """The same over processes of their own, each with its share of the seeds, until together they saw so many."""
    began, whole = time.monotonic(), Report()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        while (left := wanted - len(whole.interleavings)) > 0 and not whole.violations:
            share = -(-left * 103 // 100 // processes)  # a few that the others saw too
            parts = [pool.submit(explore, share, first + n, processes) for n in range(processes)]
            for part in parts:
                whole.add(part.result())
            first += share * processes * 2  # beyond all seeds of this round
    whole.seconds = time.monotonic() - began
    return whole


def hunt(guard: Guard, within_s: float, seeds: int | None = None) -> tuple[int, Violation] | None:
    """The first stormy seed that breaks a promise without the guard, and how; None when none does in that CPU time, or of so many."""
    began = time.process_time()
    with closing(World(guard)) as world:
        for seed in islice(count(), seeds):
            if time.process_time() - began > within_s:
                break
            try:
                Schedule(world, seed, storms=1.0, faults=guard.faults or FAULTS).run()
            except Violation as violation:
                return seed, violation
    return None
