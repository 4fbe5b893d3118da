"""The data folder of an embedded service: held by one `temper up` at a time, which writes into it where it listens."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from temper.errors import CannotStart

PATIENCE_S = 1.0


class Running(NamedTuple):
    """A living embedded service: its address and the process to end it by."""

    url: str
    pid: int


class DataFolder:
    """A folder with an exclusive lock, which ends with the process however that ends."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def take(self) -> None:
        """Creates and locks the folder; raises `CannotStart` where another service has it or it cannot be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(f"The data folder {self.path} cannot be written: {error.strerror}.") from error
        # `running` holds the lock for an instant to see whether it is free.
        deadline = time.monotonic() + PATIENCE_S
        while not _locked(lock):
            if time.monotonic() > deadline:
                os.close(lock)
                raise CannotStart(f"Another service has the data folder {self.path}{_where(self.path)}.")
            time.sleep(0.05)
        os.truncate(lock, 0)
        self._lock = lock

    def announce(self, url: str) -> None:
        """Writes where the service listens, for `running`."""
        assert self._lock is not None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps({"url": url, "pid": os.getpid()}).encode(), 0)

    def release(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            os.truncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    @property
    def logs(self) -> Path:
        """The folder of the children's logs."""
        return self.path / "logs"


def running(path: Path) -> Running | None:
    """The service that has this data folder and is ready, or None."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _locked(lock):
            return None
        text = os.pread(lock, 4096, 0)
    finally:
        os.close(lock)
    try:
        return Running(**json.loads(text))
    except ValueError:
        return None


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _where(path: Path) -> str:
    other = running(path)
    return "" if other is None else f": {other.url}, process {other.pid}"
