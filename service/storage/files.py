"""Files under one root folder: written whole or not at all, and never outside it."""

import errno
import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from service.errors import StorageFull
from service.storage.ids import new_id

CHUNK = 1 << 20
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoredFile(NamedTuple):
    """A file that was stored: its key, its size in bytes and its SHA-256 in hex."""

    key: str
    size: int
    sha256: str


class Folder:
    """The store of datasets, checkpoints and models; keys are relative paths with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, key: str) -> Path:
        """Where the key's file lies; ValueError for a key that would leave the root."""
        pure = PurePosixPath(key)
        if not key or "\0" in key or "\\" in key or pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ValueError(f"not a key: {key!r}")
        path = self.root.joinpath(*pure.parts)
        if not path.resolve().is_relative_to(self.root.resolve()):  # a link may lead out
            raise ValueError(f"not a key: {key!r}")
        return path

    def put(self, key: str, source: Path) -> StoredFile:
        """Copy the source to the key: temporary name, fsync, replace, fsync of the folder; raises StorageFull."""
        path = self.path(key)
        staging = path.with_name(f".{new_id('tmp')}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as reader, staging.open("xb") as writer:
                size, digest = _copy(reader, writer)
                writer.flush()
                os.fsync(writer.fileno())
            staging.replace(path)
            _sync(path.parent)
        except OSError as error:
            staging.unlink(missing_ok=True)
            if error.errno in NO_SPACE:
                raise StorageFull("no space is left for the file") from error
            raise
        return StoredFile(key, size, digest)

    def delete(self, prefix: str) -> None:
        """Remove the file or the whole folder of that key, if it is there."""
        path = self.path(prefix)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _copy(reader: BinaryIO, writer: BinaryIO) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while chunk := reader.read(CHUNK):
        writer.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _sync(folder: Path) -> None:
    """Make a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
