"""Trainer processes: forked from a server that has imported all and computed nothing, heard over a pipe, killed as a group."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from workers.messages import Assignment

MOST_AT_ONCE = 256  # messages taken before the supervisor looks at its clock again
LEAVING_S = 2.0  # for a trainer that said its last word to end by itself
WARM_S = 60.0


def _enter(entry: str, assignment: Assignment, connection: Connection) -> None:
    """What runs in the new process; a group of its own first, so that it can be killed whole."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(assignment, connection)


def _nothing() -> None:
    """The target of a process that only shows that the server answers."""


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hide `__main__`: multiprocessing would import it, Celery and all, in every trainer."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Trainer:
    """One trainer process and our end of its pipe."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process = process
        self._connection = connection
        self._open = True
        self.pid = process.pid or 0

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.exitcode is None

    @property
    def silent(self) -> bool:
        """Whether nothing more will be heard: the process is gone and its pipe read to the end."""
        return not self._open and not self.alive

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def receive(self, timeout_s: float) -> list[Any]:
        """The messages that are there, waiting for the first one at most so long."""
        if not self._open:
            self._process.join(timeout_s)
            return []
        wait([self._connection, self._process.sentinel], timeout_s)
        found: list[Any] = []
        try:
            while len(found) < MOST_AT_ONCE and self._connection.poll():
                found.append(self._connection.recv())
        except (EOFError, OSError):
            self._open = False
        return found

    def order(self, order: str) -> None:
        """Tell the trainer; one that is gone does not hear it."""
        with contextlib.suppress(OSError, ValueError):
            self._connection.send(order)

    def kill(self) -> None:
        """End the process and all it started, at once."""
        if not self.alive:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            self._process.kill()
        self._process.join(LEAVING_S)

    def end(self) -> None:
        """Let the process leave, kill it if it does not, and give back what it held here."""
        self._connection.close()  # which alone makes a trainer leave at once
        self._open = False
        self._process.join(LEAVING_S)
        self.kill()
        if not self.alive:
            self._process.close()


class Trainers:
    """Starts trainers. `entry` is `module:function`, resolved in the child; `preload` is what the fork server imports."""

    def __init__(self, entry: str, preload: tuple[str, ...]) -> None:
        self._entry = entry
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *preload])
        self._lock = threading.Lock()
        self._warm = threading.Event()

    def warm(self) -> None:
        """Start the fork server; returns once it has imported all and forks."""
        with self._lock:
            if self._warm.is_set():
                return
            forkserver.ensure_running()
            with _no_main():
                probe = self._context.Process(target=_nothing, name="probe")
                probe.start()
            probe.join(WARM_S)
            self._warm.set()

    def start(self, assignment: Assignment) -> Trainer:
        """A new trainer at work on the assignment."""
        ours, theirs = self._context.Pipe()
        try:
            with self._lock, _no_main():
                process = self._context.Process(target=_enter, args=(self._entry, assignment, theirs), name=assignment.job_id)
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Trainer(process, ours)
