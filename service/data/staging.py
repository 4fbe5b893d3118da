"""An upload on its way: bytes into a folder beside the datasets, counted and hashed, then published whole or gone."""

import contextlib
import errno
import hashlib
import os
import shutil
import time
from typing import NoReturn

from service.errors import StorageFull, TooLarge
from service.storage.files import NO_SPACE, Store
from service.storage.ids import new_id

STAGING = "staging"
SOURCE = "source"
RESERVE = 256 * 2**20


def dataset_key(dataset_id: str) -> str:
    """The key of a dataset's folder."""
    return f"datasets/{dataset_id}"


def refuse_full(store: Store, size: int) -> None:
    """Raises StorageFull where `size` bytes, and as many again for their columns, would leave too little space."""
    store.workplace.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(store.workplace).free < 2 * size + RESERVE:
        raise StorageFull("No space is left for this upload.")


def sweep(store: Store, older_than_s: float = 86_400) -> None:
    """Remove what uploads left behind that ended with their process."""
    staging = store.workplace / STAGING
    for path in staging.iterdir() if staging.is_dir() else ():
        if path.stat().st_mtime < time.time() - older_than_s:
            shutil.rmtree(path, ignore_errors=True)


class Staged:
    """A folder for one upload; its file is `source`. Raises TooLarge above `limit` bytes and StorageFull."""

    def __init__(self, store: Store, limit: int) -> None:
        self.id = new_id("ds")
        self.store, self.limit, self.size = store, limit, 0
        self.path = store.workplace / STAGING / self.id
        self._published = False
        self._digest = hashlib.sha256()
        self.path.mkdir(parents=True, mode=0o700)
        self.source = self.path / SOURCE
        descriptor = os.open(self.source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Add bytes to the file."""
        self.size += len(chunk)
        if self.size > self.limit:
            raise TooLarge(f"The file is larger than {self.limit} bytes.")
        self._digest.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            _refuse(error)

    def publish(self) -> str:
        """Make the folder the dataset's own and durable; its id."""
        try:
            self.close()
        except OSError as error:
            _refuse(error)
        self._published = True
        self.store.adopt(dataset_key(self.id), self.path)
        return self.id

    def close(self) -> None:
        """Close the file; nothing is written after it."""
        self._file.close()

    def discard(self) -> None:
        """Remove all of it, published or not."""
        with contextlib.suppress(OSError):
            self.close()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._published:
            self.store.delete(dataset_key(self.id))


def _refuse(error: OSError) -> NoReturn:
    if error.errno in NO_SPACE or error.errno == errno.EROFS:
        raise StorageFull("No space is left for this upload.") from error
    raise error
