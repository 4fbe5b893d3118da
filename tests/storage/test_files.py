"""Files are whole, inside their root, and ids sort as they were made."""

import errno
import hashlib
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.errors import StorageFull
from service.storage.files import Folder
from service.storage.ids import new_id, valid


def test_a_file_is_kept_under_its_key(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    folder = Folder(tmp_path / "files")
    stored = folder.put("models/a/model.bin", source)
    assert folder.path(stored.key).read_bytes() == source.read_bytes()
    assert (stored.size, stored.sha256) == (3_000_000, hashlib.sha256(source.read_bytes()).hexdigest())
    assert [path.name for path in folder.path("models/a").iterdir()] == ["model.bin"]
    folder.delete("models/a")
    folder.delete("models/a")
    assert not folder.path("models/a").exists()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "..", "a/../../b", "a/..", ".", "a\\b", "a\0b", "link/b"])
def test_a_key_that_leaves_is_refused(tmp_path: Path, key: str) -> None:
    folder = Folder(tmp_path / "files")
    folder.root.mkdir()
    (folder.root / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="not a key"):
        folder.path(key)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "files")
    (tmp_path / "files").mkdir()
    (tmp_path / "source").write_bytes(b"x" * 10)
    # A limit on file sizes is the failing write that needs no root.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        with pytest.raises(StorageFull):
            folder.write("a", b"x" * 10)
        with pytest.raises(StorageFull) as caught:
            folder.put("a", tmp_path / "source")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert list(folder.root.iterdir()) == []


def test_ids_rise_and_are_unique() -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: [new_id("job") for _ in range(5000)], range(4)))
    assert all(run == sorted(run) for run in runs)
    assert len({made for run in runs for made in run}) == 20_000
    assert all(valid("job", made) and len(made) == 30 for made in runs[0])
    assert not valid("ds", runs[0][0])
