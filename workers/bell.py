"""A bell that slots wait at: no ring is lost between looking for work and waiting for it."""

from threading import Condition


class Bell:
    """Counts its rings; who waits names the last count that was seen."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How often it rang so far."""
        return self._count

    def ring(self) -> None:
        """Wake all who wait."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_s: float) -> None:
        """Return at the first ring after `seen`, or when the time is up."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout_s)
