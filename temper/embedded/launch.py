"""An embedded service in a process of its own, for programs that need one for a while: the demo, tests."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from temper.embedded.folder import running
from temper.errors import CannotStart

START_S = 180.0  # a slow machine with cold caches; one that fails ends by itself
STOP_S = 30.0


class Launch:
    """`temper up` as a context; it ends with the block, and with this process however that ends."""

    def __init__(self, data: Path, *, port: int = 0, workers: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.url = ""
        slots = [] if workers is None else ["--workers", str(workers)]
        self._command = [sys.executable, "-P", "-m", "temper", "up", "--data", str(data), "--port", str(port), *slots]
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts the service and waits until it is ready; raises `CannotStart` with what it said."""
        lifeline, self._own_end = os.pipe()
        with tempfile.TemporaryFile() as talk:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=talk,
                env={**self._environment, "TEMPER_LIFELINE_FD": str(lifeline)},
                pass_fds=(lifeline,),
                start_new_session=True,
            )
            os.close(lifeline)
            try:
                self._await_ready(talk.fileno())
            except BaseException:
                self._end()
                raise
        return self

    def _await_ready(self, talk: int) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while (service := running(self.data)) is None or service.pid != self.process.pid:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = os.pread(talk, 10_000, 0).decode(errors="replace").strip().removeprefix("temper: ")
                raise CannotStart(said or f"The service was not ready within {START_S:g} s; its logs are in {self.data / 'logs'}.")
            time.sleep(0.05)
        self.url = service.url

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the service and everything that it started."""
        self._end()

    def _end(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            os.close(self._own_end)
