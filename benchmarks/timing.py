"""Ratios of two single-thread pieces of work: user CPU time, A and B alternating, median with its bootstrap interval."""

import resource
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Ratio(NamedTuple):
    """The median of paired ratios A / B and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def cpu(work: Callable[[], object]) -> float:
    """User CPU seconds of this process during a call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


def paired(a: Callable[[], object], b: Callable[[], object], *, pairs: int = 20) -> Ratio:
    """The ratio of a to b, measured in alternation; the first pair warms up and does not count."""
    ratios = []
    for i in range(pairs + 1):
        first, second = (cpu(a), cpu(b)) if i % 2 else tuple(reversed((cpu(b), cpu(a))))
        if i:
            ratios.append(first / second)
    return of(ratios)


def of(ratios: Sequence[float]) -> Ratio:
    """The median of ratios and its interval."""
    stream = np.random.default_rng(0)
    medians = [float(np.median(stream.choice(ratios, len(ratios)))) for _ in range(2000)]
    low, high = np.percentile(medians, [2.5, 97.5])
    return Ratio(statistics.median(ratios), float(low), float(high))


def verdict(name: str, ratio: Ratio, most: float) -> bool:
    """Print a line; the figure holds when the upper end of its interval does."""
    holds = ratio.high <= most
    print(f"{name:44s} {ratio}   at most {most}   {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds
