"""Stores of files: what they have in common, and a folder of this machine as one. Files are written whole or not at all."""

import errno
import hashlib
import io
import logging
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from service.errors import ArtifactCorrupt, DependencyUnavailable, StorageFull
from service.storage.ids import new_id

CHUNK = 1 << 20
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
log = logging.getLogger(__name__)


class StoredFile(NamedTuple):
    """A file that was stored: its key, its size in bytes and its SHA-256 in hex."""

    key: str
    size: int
    sha256: str


class Store(ABC):
    """Datasets, checkpoints and models by key: relative paths with forward slashes.

    All of it raises ValueError for what is no key, and DependencyUnavailable where the store does not answer; what writes raises
    StorageFull too. A store can be pickled: trainers are given the one of their worker.
    """

    kind: str
    """What readiness calls it."""
    workplace: Path
    """A folder of this machine where uploads are received."""

    @abstractmethod
    def put(self, key: str, source: Path) -> StoredFile:
        """Copy the source to the key, where it appears whole."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> StoredFile:
        """Store the bytes under the key, where they appear whole."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The file's bytes, unchecked; raises ArtifactCorrupt where it is not there."""

    @abstractmethod
    def adopt(self, key: str, folder: Path) -> None:
        """Take a folder of this machine over: its files appear below the key, and it is gone here."""

    @abstractmethod
    def fetch(self, key: str, *, without: str = "") -> Path:
        """An adopted folder as one of this machine, only to be read; the file named by `without` need not be in it.

        It stays for ten minutes at least: read it at once.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the file, or the whole folder, of that key if it is there; what cannot be removed is logged and stays."""

    @abstractmethod
    def folders(self, key: str) -> dict[str, float]:
        """The names of the folders directly below the key, each with when a file in it changed last, in epoch seconds."""

    @abstractmethod
    def check(self) -> None:
        """Raise DependencyUnavailable unless the store answers."""

    def read(self, record: Mapping[str, Any]) -> bytes:
        """The bytes of a `StoredFile`'s record; raises ArtifactCorrupt where they are not those that were written."""
        content = self.get(record["key"])
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ArtifactCorrupt(f"The stored file {PurePosixPath(record['key']).name} does not have the bytes that were written.")
        return content


class Folder(Store):
    """A folder of this machine, or one that all machines see."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.workplace = self.root

    def path(self, key: str) -> Path:
        """Where the key's file lies; ValueError for a key that would leave the root."""
        path = self.root.joinpath(*parts(key))
        if not path.resolve().is_relative_to(self.root.resolve()):  # a link may lead out
            raise ValueError(f"not a key: {key!r}")
        return path

    def put(self, key: str, source: Path) -> StoredFile:
        """Copy the source to the key: temporary name, fsync, replace, fsync of the folder."""
        with source.open("rb") as reader:
            return self._keep(key, reader)

    def write(self, key: str, content: bytes) -> StoredFile:
        return self._keep(key, io.BytesIO(content))

    def get(self, key: str) -> bytes:
        path = self.path(key)
        try:
            with answering():
                return path.read_bytes()
        except ABSENT as error:
            raise ArtifactCorrupt(f"The stored file {path.name} is gone.") from error

    def adopt(self, key: str, folder: Path) -> None:
        home = self.path(key)
        with answering():
            home.parent.mkdir(parents=True, exist_ok=True)
            for path in (*sorted(folder.rglob("*")), folder):
                sync(path)
            folder.rename(home)
            sync(home.parent)

    def fetch(self, key: str, *, without: str = "") -> Path:
        return self.path(key)

    def delete(self, key: str) -> None:
        path = self.path(key)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("files stay behind under %s: %s", key, error)

    def folders(self, key: str) -> dict[str, float]:
        with answering(), suppress(FileNotFoundError), os.scandir(self.path(key)) as found:
            return {entry.name: changed(Path(entry.path)) for entry in found if entry.is_dir(follow_symlinks=False)}
        return {}

    def check(self) -> None:
        if not (self.root.is_dir() and os.access(self.root, os.W_OK | os.X_OK)):
            raise DependencyUnavailable("the folder of the files cannot be written")

    def _keep(self, key: str, reader: BinaryIO) -> StoredFile:
        path = self.path(key)
        staging = path.with_name(f".{new_id('tmp')}")
        try:
            with answering():
                path.parent.mkdir(parents=True, exist_ok=True)
                with staging.open("xb") as writer:
                    size, digest = _copy(reader, writer)
                    writer.flush()
                    os.fsync(writer.fileno())
                staging.replace(path)
                sync(path.parent)
        except BaseException:
            with suppress(OSError):
                staging.unlink(missing_ok=True)
            raise
        return StoredFile(key, size, digest)


def parts(key: str) -> tuple[str, ...]:
    """The names that a key leads through; ValueError for what is no key."""
    pure = PurePosixPath(key)
    if not key or "\0" in key or "\\" in key or pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(f"not a key: {key!r}")
    return pure.parts


@contextmanager
def answering() -> Iterator[None]:
    """Turn an operating system's errors into StorageFull and DependencyUnavailable; what is not there stays what it is."""
    try:
        yield
    except ABSENT:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFull("no space is left for the file") from error
        raise DependencyUnavailable("the folder of the files does not work") from error


def measured(path: Path) -> tuple[int, str]:
    """A file's size in bytes and its SHA-256 in hex."""
    with path.open("rb") as reader:
        return _copy(reader, None)


def changed(folder: Path) -> float:
    """When something in the folder changed last, in epoch seconds; now where it is being removed."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(reader: BinaryIO, writer: BinaryIO | None) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while chunk := reader.read(CHUNK):
        if writer is not None:
            writer.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()
