"""A pipe whose closing tells a process that the one that started it is gone, even by `kill -9`.

`python -m service.lifeline COMMAND …` ties a program that knows nothing of the pipe, as a Redis server, to it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

VARIABLE = "TEMPER_LIFELINE_FD"
GRACE_S = 5.0
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def watch() -> None:
    """Ends this process (SIGTERM, after 5 s at once) when the pipe named in `TEMPER_LIFELINE_FD` closes; nothing without one."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return
    descriptor = int(number)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_await_end, args=(descriptor,), name="lifeline", daemon=True).start()


def _await_end(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def _end_with_parent() -> None:
    """SIGTERM for this process when the thread that made it ends; that is a main thread, which ends with its process."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Tethered:
    """A program that is told to end when this process is, and killed if it does not within 3 s."""

    def __init__(self, command: list[str]) -> None:
        self._ending = False
        self._process: subprocess.Popen[bytes] | None = None
        # The handlers come first: a signal between the start and them would leave the program behind.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        # Where this process is killed outright, its handlers are too: the system has to tell the program.
        self._process = subprocess.Popen(command, preexec_fn=_end_with_parent if LIBC is not None else None)  # noqa: PLW1509
        if self._ending:
            self._process.terminate()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True
        if self._process is not None:
            self._process.terminate()
            deadline = threading.Timer(GRACE_S - 2, self._process.kill)
            deadline.daemon = True
            deadline.start()

    def wait(self) -> int:
        """The program's exit status once it ended."""
        assert self._process is not None
        return self._process.wait()


if __name__ == "__main__":
    watch()
    sys.exit(Tethered(sys.argv[1:]).wait())
