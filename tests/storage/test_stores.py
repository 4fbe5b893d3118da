"""One table of promises for both stores, a folder and a bucket; and what faults of a bucket come to."""

import hashlib
import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import ArtifactCorrupt, DependencyUnavailable, StorageFull, TemperError
from service.settings import Settings
from service.storage.bucket import BRISK, SMALL, Bucket
from service.storage.files import Folder, Store
from service.storage.stores import open_store
from tests.system.objects import BUCKET, Objects, environment, refusing

Made = Callable[[], Store]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    server = Objects(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def bucket(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket's prefix of the test's own."""
    for name, value in objects.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(f"s3://{BUCKET}/{tmp_path.name}", tmp_path / "data", 10**9)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        (tmp_path / "files").mkdir()
        return Folder(tmp_path / "files")
    found: Store = request.getfixturevalue("bucket")
    return found


def folder_of(place: Path, **files: bytes) -> Path:
    """A folder with those files; `__` in a name stands for a folder."""
    for name, content in files.items():
        path = place / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def kept(store: Store, key: str) -> bool:
    try:
        store.get(key)
    except ArtifactCorrupt:
        return False
    return True


@pytest.mark.parametrize("size", [0, 1, 100_000, SMALL + 1, 2 * SMALL + 7])
def test_what_is_written_is_read(store: Store, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    for stored in (store.put("models/a/model.bin", tmp_path / "source"), store.write("models/b/model.bin", content)):
        assert (stored.size, stored.sha256) == (size, hashlib.sha256(content).hexdigest())
        assert store.get(stored.key) == store.read(stored._asdict()) == content


def test_a_file_is_replaced_whole(store: Store) -> None:
    record = store.write("a", b"old")._asdict()
    fresh = store.write("a", b"new")._asdict()
    assert store.read(fresh) == b"new"
    with pytest.raises(ArtifactCorrupt, match="The stored file a does not have the bytes that were written"):
        store.read(record)


def test_what_is_not_there_is_corrupt(store: Store) -> None:
    store.write("models/a/b", b"")
    for key in ("models/x", "models/a", "models/a/b/c"):
        with pytest.raises(ArtifactCorrupt, match=f"The stored file {key[-1]} is gone"):
            store.read({"key": key, "sha256": hashlib.sha256(b"").hexdigest()})


@pytest.mark.parametrize("key", ["", "/etc/passwd", "..", "a/../../b", "a/..", ".", "a\\b", "a\0b"])
def test_a_key_that_leaves_is_refused(store: Store, tmp_path: Path, key: str) -> None:
    folder = folder_of(tmp_path / "one", file=b"")
    calls: list[Callable[[], Any]] = [
        lambda: store.get(key), lambda: store.write(key, b""), lambda: store.put(key, folder / "file"), lambda: store.delete(key),
        lambda: store.adopt(key, folder), lambda: store.fetch(key),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="not a key"):
            call()
    assert (folder / "file").exists()


def test_a_folder_is_taken_over_and_mapped(store: Store, tmp_path: Path) -> None:
    values = np.arange(3_000_000, dtype=np.float64)
    folder = folder_of(tmp_path / "one", source=b"a,b", description=b"{}", columns__1=b"")
    np.save(folder / "columns" / "0.npy", values)
    store.adopt("datasets/ds_a", folder)
    assert not folder.exists()
    for _ in range(2):
        here = store.fetch("datasets/ds_a", without="source")
        assert (here / "description").read_bytes() == b"{}"
        assert (here / "columns" / "1").read_bytes() == b""
        assert np.array_equal(np.load(here / "columns" / "0.npy", mmap_mode="r"), values)
    assert store.get("datasets/ds_a/source") == b"a,b"


def test_deleting_takes_the_key_and_all_below_it(store: Store) -> None:
    for key in ("jobs/a", "jobs/ab/x", "jobs/b/x", "jobs/b/y/z"):
        store.write(key, b"")
    store.delete("jobs/a")
    store.delete("jobs/b")
    store.delete("jobs/b")
    store.delete("jobs/none")
    assert [key for key in ("jobs/a", "jobs/ab/x", "jobs/b/x", "jobs/b/y/z") if kept(store, key)] == ["jobs/ab/x"]


def test_a_deleted_folder_is_not_fetched_any_more(store: Store, tmp_path: Path) -> None:
    store.adopt("datasets/ds_a", folder_of(tmp_path / "one", x=b"x"))
    here = store.fetch("datasets/ds_a")
    store.delete("datasets/ds_a")
    assert not here.exists()
    assert not kept(store, "datasets/ds_a/x")


def test_a_store_travels_to_another_process(store: Store) -> None:
    record = store.write("a/b", b"c")._asdict()
    assert pickle.loads(pickle.dumps(store)).read(record) == b"c"  # noqa: S301 - as multiprocessing does it


def test_a_store_that_answers_is_ready(store: Store) -> None:
    store.check()


def test_a_folder_that_is_gone_is_not_ready(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "file" / "files")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DependencyUnavailable):
        folder.check()


def elsewhere(bucket: Bucket, tmp_path: Path, *, cache_bytes: int = 10**9) -> Bucket:
    """The same bucket from a machine that has no copies yet."""
    url, _, _ = bucket.__reduce__()[1]
    return Bucket(url, tmp_path / "elsewhere", cache_bytes)


def test_another_machine_has_the_same_bytes(bucket: Bucket, tmp_path: Path, objects: Objects) -> None:
    big = os.urandom(SMALL + 1)
    bucket.adopt("datasets/ds_a", folder_of(tmp_path / "one", source=b"s" * 100, columns__0=big, parts=b"1"))
    other = elsewhere(bucket, tmp_path)
    here = other.fetch("datasets/ds_a", without="source")
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()) == ["columns/0", "parts"]
    assert (here / "columns" / "0").read_bytes() == big
    assert here.is_relative_to(tmp_path / "elsewhere" / "cache" / "datasets")
    assert here.name.startswith("datasets-ds_a-")
    assert {key.rpartition("/")[2] for key in objects.names(f"{tmp_path.name}/datasets/ds_a")} == {"source", "0", "parts", "manifest.json"}


@pytest.mark.parametrize("damage", [b"flipped bits", None])
def test_damaged_columns_are_never_mapped(bucket: Bucket, tmp_path: Path, damage: bytes | None) -> None:
    bucket.adopt("datasets/ds_a", folder_of(tmp_path / "one", columns__0=b"right bytes!", columns__1=b"more"))
    if damage is None:
        bucket.delete("datasets/ds_a/columns/0")
    else:
        bucket.write("datasets/ds_a/columns/0", damage)
    other = elsewhere(bucket, tmp_path)
    with pytest.raises(ArtifactCorrupt, match="The stored file 0 "):
        other.fetch("datasets/ds_a")
    assert [path.name for path in (tmp_path / "elsewhere" / "cache" / "datasets").iterdir() if not path.name.startswith(".lock")] == []


def test_a_folder_half_taken_over_is_not_there(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "one", **{f"columns__{n}": b"x" for n in range(20)})
    with refusing(507, "InsufficientStorage", after=12) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        full = elsewhere(bucket, tmp_path)
        with pytest.raises(StorageFull):
            full.adopt("datasets/ds_a", folder)
        assert len([*folder.rglob("*")]) == 21
        with pytest.raises(ArtifactCorrupt):
            full.fetch("datasets/ds_a")


def test_many_files_are_deleted_in_batches(bucket: Bucket, tmp_path: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.storage.bucket.BATCH", 10)
    bucket.adopt("datasets/ds_a", folder_of(tmp_path / "one", **{f"columns__{n}": b"" for n in range(25)}))
    assert len(objects.names(tmp_path.name)) == 26
    bucket.delete("datasets/ds_a")
    assert objects.names(tmp_path.name) == []


def test_many_at_once_copy_a_folder_once(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.adopt("datasets/ds_a", folder_of(tmp_path / "one", x=b"x" * 100_000))
    copies: list[str] = []
    plain = Bucket._copy
    monkeypatch.setattr(Bucket, "_copy", lambda self, key, files, folder: (copies.append(key), plain(self, key, files, folder)))
    found: list[Path] = []
    others = [elsewhere(bucket, tmp_path) for _ in range(6)]
    threads = [threading.Thread(target=lambda each=each: found.append(each.fetch("datasets/ds_a"))) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert copies == ["datasets/ds_a"]
    assert len(found) == 6
    assert len({*found}) == 1


REFUSALS = [
    (403, "AccessDenied", DependencyUnavailable, r"refuses \(AccessDenied\)"),
    (404, "NoSuchBucket", DependencyUnavailable, r"refuses \(NoSuchBucket\)"),
    (503, "SlowDown", DependencyUnavailable, r"refuses \(SlowDown\)"),
    (507, "InsufficientStorage", StorageFull, "no space"),
    (400, "QuotaExceeded", StorageFull, "no space"),
]


@pytest.mark.parametrize(("status", "code", "error", "said"), REFUSALS)
def test_a_refusal_has_its_error(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, error: type[TemperError], said: str
) -> None:
    monkeypatch.setattr("service.storage.bucket.PATIENT", BRISK)
    with refusing(status, code) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        refused = elsewhere(bucket, tmp_path)
        for call in (lambda: refused.write("a", b""), lambda: refused.get("a")):
            with pytest.raises(error, match=said):
                call()
        with pytest.raises((DependencyUnavailable, StorageFull)):
            refused.check()
        refused.delete("a")


def test_a_store_that_is_not_there_is_unavailable(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").write_bytes(b"x" * (SMALL + 1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        lost = elsewhere(bucket, tmp_path)
        started = time.monotonic()
        with pytest.raises(DependencyUnavailable, match="ReadTimeoutError"):
            lost.check()
        assert time.monotonic() - started < 20
    monkeypatch.setattr("service.storage.bucket.PATIENT", BRISK)
    lost = elsewhere(bucket, tmp_path)
    for call in (lambda: lost.put("a", tmp_path / "big"), lambda: lost.get("a"), lost.check, lambda: lost.fetch("datasets/ds_a")):
        with pytest.raises(DependencyUnavailable, match=r"the S3 store does not answer \(EndpointConnectionError\)"):
            call()


def test_a_store_without_credentials_is_unavailable(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DependencyUnavailable, match="NoCredentialsError"):
        elsewhere(bucket, tmp_path).write("a", b"")


def test_the_settings_name_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(1).items():
        monkeypatch.setenv(name, value)
    usual, named = Settings(data=tmp_path), Settings(data=tmp_path, storage_url=f"file://{tmp_path}/a%20b")
    assert [open_store(each).path("x") for each in (usual, named)] == [tmp_path / "files" / "x", tmp_path / "a b" / "x"]
    assert open_store(Settings(data=tmp_path, storage_url="s3://some.bucket/a/b")).kind == "s3"


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    monkeypatch.delitem(sys.modules, "service.storage.bucket")
    with pytest.raises(DependencyUnavailable, match=r"temper\[s3]"):
        open_store(Settings(data=tmp_path, storage_url="s3://some.bucket"))


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "s3://UPPER", "s3://ab", "file://host/folder", "file:///", "/folder", "http://a/b"]
)
def test_another_address_is_no_store(url: str) -> None:
    with pytest.raises(ValueError, match="storage_url"):
        Settings(storage_url=url)


def test_folders_with_their_last_change(store: Store) -> None:
    assert store.folders("jobs") == {}
    before = time.time()
    for key in ("jobs/a/1.ckpt", "jobs/a/deep/2.ckpt", "jobs/b/1.ckpt", "models/c/weights"):
        store.write(key, b"x")
    found = store.folders("jobs")
    assert set(found) == {"a", "b"}
    assert all(before - 2 <= changed <= time.time() + 2 for changed in found.values())
    with pytest.raises(ValueError, match="not a key"):
        store.folders("../jobs")
