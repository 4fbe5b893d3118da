"""Uploads on their way, and the built-in datasets of several services at once."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from service.data import builtin, staging
from service.data.columns import Columns
from service.data.staging import Staged, dataset_key
from service.errors import TooLarge
from service.storage import datasets, migrate
from service.storage.files import Folder
from service.storage.sessions import Database


def test_what_is_published_is_whole(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    staged = Staged(folder, 100)
    staged.write(b"abc")
    staged.write(b"def")
    assert staged.source.stat().st_mode & 0o777 == 0o600
    home = folder.path(dataset_key(staged.publish()))
    assert (home / "source").read_bytes() == b"abcdef"
    assert (staged.size, staged.sha256) == (6, hashlib.sha256(b"abcdef").hexdigest())
    assert list((tmp_path / "staging").iterdir()) == []
    staged.discard()
    assert not home.exists()


def test_the_limit_holds_at_every_byte(tmp_path: Path) -> None:
    staged = Staged(Folder(tmp_path), 4)
    staged.write(b"1234")
    with pytest.raises(TooLarge):
        staged.write(b"5")
    staged.discard()
    assert list((tmp_path / "staging").iterdir()) == []


def test_the_sweeper_takes_what_is_old(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    old, fresh = Staged(folder, 9), Staged(folder, 9)
    os.utime(old.path, (0, 0))
    staging.sweep(folder)
    assert not old.path.exists()
    assert fresh.path.exists()
    old.close()
    fresh.close()


def test_builtin_datasets_are_created_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'temper.db'}"
    migrate.upgrade(url)
    database, folder = Database(url), Folder(tmp_path / "files")
    starts = [threading.Thread(target=builtin.ensure, args=(database, folder)) for _ in range(2)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    with database.read() as c:
        found = datasets.page(c, "default", limit=10, cursor=None).items
    assert sorted(dataset.name for dataset in found) == ["diabetes", "digits"]
    digits = next(dataset for dataset in found if dataset.name == "digits")
    columns = Columns(folder.path(dataset_key(digits.id)))
    assert columns.read("image").shape == (1797, 8, 8)
    assert columns.read("label")[:10].tolist() == list(range(10))
    database.close()
