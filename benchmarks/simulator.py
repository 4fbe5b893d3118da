"""Interleavings of workers, users and faults over the real SQL, judged: python -m benchmarks.simulator [--interleavings N]"""

import argparse
import os
import sys
import time
from dataclasses import replace

from tests.simulator.exploration import explore_apart, hunt
from tests.simulator.guards import GUARDS

INTERLEAVINGS = 1_000_000
WITHIN_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--interleavings", type=int, default=INTERLEAVINGS)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    chosen = parser.parse_args()
    sound = _explored(chosen.interleavings, chosen.processes, chosen.first)
    return 0 if _guarded() and sound else 1


def _explored(wanted: int, processes: int, first: int) -> bool:
    report = explore_apart(wanted, processes, first)
    print(f"different interleavings  {len(report.interleavings):,} of {report.seeds:,} seeds from {first}, {processes} processes")
    print(f"seconds                  {report.seconds:.0f}")
    print(f"transactions             {report.calls:,}, of which met for the first time and executed as SQL: {report.executed:,}")
    print(f"played again throughout  {report.replays:,} interleavings on one database each, all as before")
    print(f"violations               {len(report.violations)}")
    for seed, what in report.violations[:10]:
        print(f"  seed {seed}: {what}")
    holds = not report.violations and len(report.interleavings) >= wanted
    print(f"at least {wanted:,} and no violation: {'holds' if holds else 'FALLS SHORT'}\n", flush=True)
    return holds


def _guarded() -> bool:
    """Whether each removed guard is found in time."""
    slowest, missed = 0.0, 0
    for guard in GUARDS:
        if guard.redundant:
            print(f"          {guard}: redundant, {guard.redundant}", flush=True)
            continue
        removed, began = replace(guard), time.monotonic()
        found = hunt(removed, WITHIN_S)
        seconds = time.monotonic() - began
        slowest, missed = max(slowest, seconds), missed + (found is None)
        told = "NOT FOUND" if found is None else f"seed {found[0]}, {found[1].promise}"
        print(f"{seconds:7.2f} s {guard}: {told}", flush=True)
    print(f"each found within {WITHIN_S:.0f} s (slowest {slowest:.1f}): {'FALLS SHORT' if missed else 'holds'}")
    return not missed


if __name__ == "__main__":
    sys.exit(main())
