"""Copies of what lies elsewhere: folders on this machine's disk, whole or not there, shared by its processes."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.storage.files import answering
from service.storage.ids import new_id

USED_S = 600.0
"""A copy asked for within so many seconds may be being read: it stays, even above the bound."""
LEFT_S = 86_400.0  # what a killed process left unfinished is swept after a day


class Cache:
    """Copies of at most `most_bytes` together; those asked for least recently leave first."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root = root
        self.most_bytes = most_bytes

    def hold(self, name: str, size: int, fill: Callable[[Path], None]) -> Path:
        """The copy of that name, of `size` bytes; one caller fills it while the others wait. Raises StorageFull."""
        copy = self.root / name
        if self._use(copy):
            return copy
        with answering():
            self.root.mkdir(parents=True, exist_ok=True)
            with self._alone(name):
                if not self._use(copy):
                    self._make_room(size)
                    self._fill(copy, fill)
        return copy

    def take(self, name: str, folder: Path) -> None:
        """Keep a folder as the copy of that name, if that costs nothing; the folder is gone in any case."""
        with suppress(OSError):  # as where it lies on another disk, or the copy is there
            self.root.mkdir(parents=True, exist_ok=True)
            self._make_room(_size(folder))
            folder.rename(self.root / name)
            self._use(self.root / name)
        shutil.rmtree(folder, ignore_errors=True)

    def drop(self, prefix: str) -> None:
        """Remove the copies whose names begin so."""
        for copy in self._copies():
            if copy.name.startswith(prefix):
                self._remove(copy)

    def _use(self, copy: Path) -> bool:
        """Whether the copy is there; it is then the one used last."""
        try:
            os.utime(copy)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold the lock of that name, which few others share, against threads and processes alike."""
        with (self.root / f".lock-{name[-2:]}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fill(self, copy: Path, fill: Callable[[Path], None]) -> None:
        fresh = self.root / f".{new_id('tmp')}"
        fresh.mkdir()
        try:
            fill(fresh)
            fresh.rename(copy)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _make_room(self, size: int) -> None:
        """Remove copies till `size` bytes more stay below the bound, or only those are left that may be in use."""
        self._sweep()
        copies = sorted((_age_s(copy), copy, _size(copy)) for copy in self._copies())
        held = sum(each for _, _, each in copies)
        while copies and held + size > self.most_bytes and copies[-1][0] > USED_S:
            _, copy, freed = copies.pop()
            self._remove(copy)
            held -= freed

    def _sweep(self) -> None:
        for left in self.root.glob(".tmp_*"):
            if _age_s(left) > LEFT_S:
                shutil.rmtree(left, ignore_errors=True)

    def _copies(self) -> list[Path]:
        return [path for path in self.root.iterdir() if not path.name.startswith(".")] if self.root.is_dir() else []

    def _remove(self, copy: Path) -> None:
        """Out of sight at once, then gone; whoever has mapped its files keeps them."""
        gone = self.root / f".{new_id('tmp')}"
        with suppress(OSError):
            copy.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _age_s(path: Path) -> float:
    """Seconds since it was used; 0 for what another process has just removed."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(folder: Path) -> int:
    """Bytes of all files below; 0 for what another process has just removed."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:
        return 0
