"""A child process that is started again when it dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from temper.errors import CannotStart

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
LOG_BYTES = 10 * 2**20
LAST_LINES = 15


class Program(NamedTuple):
    """What to run: a name for people, the command, where it runs, where it logs, and the seconds it has to end by itself."""

    name: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    environment: Mapping[str, str]
    grace_s: float


class Child:
    """A running program, and how often it died without having become ready."""

    def __init__(self, program: Program, ready: Callable[["Child"], bool], lifeline: int) -> None:
        self.program = program
        self._answers = ready
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._next_start = 0.0
        self._log_start = 0
        self._started = 0.0
        self.ready = False

    @property
    def age_s(self) -> float:
        """Seconds since the latest start."""
        return time.monotonic() - self._started

    def tend(self) -> None:
        """Starts what is due, notes what became ready or died; raises `CannotStart` at the fifth death in a row."""
        if self._process is None:
            if time.monotonic() >= self._next_start:
                self._start()
        elif self._process.poll() is not None:
            self._bury(self._process.returncode)
        elif not self.ready and self._answers(self):
            self.ready = True
            self._failures = 0

    def _start(self) -> None:
        """Starts the program in a session of its own, so that a terminal's Ctrl-C reaches the parent alone."""
        log = self.program.log
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as stream:
            self._log_start = stream.tell()
            self._process = subprocess.Popen(
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**self.program.environment, "TEMPER_LIFELINE_FD": str(self._lifeline)},
                cwd=self.program.folder,
                pass_fds=(self._lifeline,),
                start_new_session=True,
            )
        self._started = time.monotonic()

    def _bury(self, status: int) -> None:
        self._process = None
        self.ready = False
        self._failures += 1
        pause = FIRST_PAUSE_S * 2 ** (self._failures - 1)
        self._next_start = time.monotonic() + pause
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        if self._failures >= ATTEMPTS:
            raise CannotStart(
                f"The {self.program.name} ended {how}, {ATTEMPTS} times in a row without having become ready. "
                f"Its last words ({self.program.log}):\n{last_lines(self.program.log, self._log_start)}"
            )
        print(f"The {self.program.name} ended {how}; it starts again in {pause:g} s.", file=sys.stderr, flush=True)

    def terminate(self) -> None:
        """Asks the program to end."""
        if self._process is not None and not self._ended():
            self._process.terminate()

    def wait(self) -> None:
        """Waits for the program's end or that of its grace, then ends its process group with whatever is left in it."""
        if self._process is None:
            return
        deadline = time.monotonic() + self.program.grace_s
        while not self._ended() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """Ends the program and its process group at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _ended(self) -> bool:
        """Whether the program is over; it is not reaped yet, so that its number still means its group."""
        assert self._process is not None
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def last_lines(log: Path, start: int = 0) -> str:
    """The end of what a log holds from the byte `start` on."""
    with log.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-LAST_LINES:]) or "(nothing)"
