"""The cache of copies: bounded, whole or not there."""

import os
import time
from pathlib import Path

import pytest

from service.errors import DependencyUnavailable
from service.storage.cache import USED_S, Cache


def fill(cache: Cache, name: str, size: int, *, age_s: float = 0.0) -> Path:
    """A copy of so many bytes that was last used so long ago."""
    copy = cache.hold(name, size, lambda folder: (folder / "x").write_bytes(b"x" * size) and None)
    then = time.time() - age_s
    os.utime(copy, (then, then))
    return copy


def test_the_least_recently_used_copy_leaves_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)
    old, older = fill(cache, "old-aa", 40, age_s=2 * USED_S), fill(cache, "older-bb", 40, age_s=3 * USED_S)
    fresh = fill(cache, "fresh-cc", 40)
    assert [each.exists() for each in (older, old, fresh)] == [False, True, True]
    cache.hold("old-aa", 40, lambda _: pytest.fail("it is there"))
    last = fill(cache, "last-dd", 90)
    assert [each.exists() for each in (old, fresh, last)] == [True, True, True]  # all of them may be being read
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["fresh-cc", "last-dd", "old-aa"]


def test_a_copy_that_failed_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)

    def broken(folder: Path) -> None:
        (folder / "x").write_bytes(b"x")
        raise DependencyUnavailable

    with pytest.raises(DependencyUnavailable):
        cache.hold("a-00", 1, broken)
    assert [path.name for path in tmp_path.iterdir()] == [".lock-00"]
    assert fill(cache, "a-00", 1).is_dir()
