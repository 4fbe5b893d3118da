"""Waiting for what happens elsewhere, in tests that say nothing about how soon."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 240.0
"""Far more than anything here takes: what is late on a slow or crowded machine is not lost."""
Found = TypeVar("Found")


def until(what: Callable[[], Found], within_s: float = PATIENCE_S) -> Found:
    """What the function returns once that is true; AssertionError when the time is up."""
    ends = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < ends, f"not within {within_s} s: {found!r}"
        time.sleep(0.01)
    return found
