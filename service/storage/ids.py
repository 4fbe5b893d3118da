"""Ids: a prefix and 26 characters, sortable by creation."""

import re
import secrets
import time
from threading import Lock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_FORM = re.compile(r"[a-z]+_[0-7][0-9a-hjkmnp-tv-z]{25}")
_RANDOM_BITS = 80


class _Rising:
    """Numbers of 128 bits, 48 of milliseconds and 80 random ones, each above the last."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last = 0

    def next(self) -> int:
        with self._lock:
            fresh = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            # Within a millisecond, or when the clock was put back, count on from the last one.
            self._last = fresh if fresh >> _RANDOM_BITS > self._last >> _RANDOM_BITS else self._last + 1
            return self._last


_rising = _Rising()


def new_id(prefix: str) -> str:
    """A fresh id such as `job_01j…`: time first, rising within a process."""
    number = _rising.next()
    return f"{prefix}_" + "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def valid(prefix: str, text: str) -> bool:
    """Whether the text could be an id of that prefix; what could not never reaches a query."""
    return text.startswith(f"{prefix}_") and _FORM.fullmatch(text) is not None
