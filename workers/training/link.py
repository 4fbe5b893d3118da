"""The trainer's end of the pipe to its supervisor: messages out, orders in, and death when it closes."""

import os
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from workers.messages import Log, Metrics, Progress

PROGRESS_S = 0.5


class Link:
    """Sends messages from any thread; a thread of its own reads orders and ends the process when the pipe closes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._order: str | None = None
        self._rows: list[tuple[int, int, str, float]] = []
        self._reported = 0.0
        self._held: Progress | None = None
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    @property
    def order(self) -> str | None:
        """The latest order: `stop:<reason>` or `drain`."""
        return self._order

    def send(self, message: Any) -> None:
        """Send one message; what is still held back goes first."""
        with self._lock:
            self._flush()
            self._connection.send(message)

    def log(self, message: str, level: str = "info") -> None:
        """A line for the job's log."""
        self.send(Log(level, message))

    def metrics(self, rows: list[tuple[int, int, str, float]]) -> None:
        """Hold measurements back until the next message."""
        with self._lock:
            self._rows.extend(rows)

    def progress(self, progress: Progress) -> None:
        """Report progress, at most twice a second."""
        with self._lock:
            self._held = progress
            if time.monotonic() - self._reported >= PROGRESS_S:
                self._reported = time.monotonic()
                self._flush()

    def _flush(self) -> None:
        """Send what is held back; the lock is held."""
        if self._rows:
            rows, self._rows = tuple(self._rows), []
            self._connection.send(Metrics(rows))
        if self._held is not None:
            held, self._held = self._held, None
            self._connection.send(held)

    def _listen(self) -> None:
        try:
            while True:
                self._order = str(self._connection.recv())
        except (EOFError, OSError):
            # The supervisor is gone: nothing of ours would ever be taken.
            os._exit(70)
