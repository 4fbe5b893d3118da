"""A bucket of an S3 service as a store. Credentials, region and endpoint come from boto3's own environment variables."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from service.errors import ArtifactCorrupt, DependencyUnavailable, StorageFull, TemperError
from service.storage.cache import Cache
from service.storage.files import Store, StoredFile, answering, measured, parts, sync

MANIFEST = "manifest.json"
"""Written last: the files of an adopted folder with their sizes and digests."""
SMALL = 8 * 2**20  # bytes of a file that is sent in one request
BATCH = 1000  # most keys of one deletion
FILES_AT_ONCE, PARTS_AT_ONCE = 8, 2
TRANSFER = TransferConfig(multipart_threshold=SMALL, multipart_chunksize=SMALL, max_concurrency=PARTS_AT_ONCE)
# A lost store is noticed within seconds, a slow one is waited for; an attempt that broke off is made again.
PATIENT = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=FILES_AT_ONCE * PARTS_AT_ONCE,
)
BRISK = Config(connect_timeout=2, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})
# Supervisors delete between two signs of life: finding and deleting must take less than a lease.
BOUNDED = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
FULL = frozenset({"QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
log = logging.getLogger(__name__)


class Bucket(Store):
    """The objects below `s3://bucket/prefix`; what must be mapped into memory is copied below `data` first."""

    kind = "s3"

    def __init__(self, url: str, data: Path, cache_bytes: int) -> None:
        self._made_of = (url, data.absolute(), cache_bytes)
        place = urlsplit(url)
        self._bucket, self._prefix = place.netloc, place.path.strip("/")
        self._cache = Cache(data.absolute() / "cache" / "datasets", cache_bytes)
        self.workplace = data.absolute() / "files"
        self._client = _client(PATIENT)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, self._made_of  # connections do not travel

    @cached_property
    def _probe(self) -> Any:
        return _client(BRISK)

    @cached_property
    def _broom(self) -> Any:
        return _client(BOUNDED)

    def put(self, key: str, source: Path) -> StoredFile:
        size, digest = measured(source)
        if size <= SMALL:
            return self.write(key, source.read_bytes())
        with _answering(), source.open("rb") as reader:
            self._client.upload_fileobj(reader, self._bucket, self._name(key), Config=TRANSFER)
        return StoredFile(key, size, digest)

    def write(self, key: str, content: bytes) -> StoredFile:
        with _answering():
            self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=content)
        return StoredFile(key, len(content), hashlib.sha256(content).hexdigest())

    def get(self, key: str) -> bytes:
        with _answering(key):
            content: bytes = self._client.get_object(Bucket=self._bucket, Key=self._name(key))["Body"].read()
        return content

    def adopt(self, key: str, folder: Path) -> None:
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stored = _together([partial(self.put, f"{key}/{name}", path) for name, path in files.items()])
        manifest = json.dumps({name: [file.size, file.sha256] for name, file in zip(files, stored, strict=True)}).encode()
        self.write(f"{key}/{MANIFEST}", manifest)
        self._cache.take(_copy_name(key, manifest), folder)

    def fetch(self, key: str, *, without: str = "") -> Path:
        manifest = self.get(f"{key}/{MANIFEST}")
        files = [StoredFile(name, *about) for name, about in json.loads(manifest).items() if name != without]
        return self._cache.hold(_copy_name(key, manifest), sum(file.size for file in files), partial(self._copy, key, files))

    def delete(self, key: str) -> None:
        try:
            with _answering():
                self._delete([self._name(key), *self._below(f"{self._name(key)}/")])
        except TemperError as error:
            log.warning("files stay behind under %s: %s", key, error.detail)
        self._cache.drop(_copy_name(key, None))

    def folders(self, key: str) -> dict[str, float]:
        prefix, newest = f"{self._name(key)}/", dict[str, float]()
        with _answering():
            for page in self._broom.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(prefix).partition("/")[0]
                    newest[name] = max(newest.get(name, 0.0), found["LastModified"].timestamp())
        return newest

    def check(self) -> None:
        with _answering():
            self._probe.head_bucket(Bucket=self._bucket)

    def _name(self, key: str) -> str:
        """The object's name; ValueError for what is no key."""
        return "/".join([*([self._prefix] if self._prefix else []), *parts(key)])

    def _below(self, prefix: str) -> Iterator[str]:
        for page in self._broom.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            yield from (found["Key"] for found in page.get("Contents", ()))

    def _delete(self, names: list[str]) -> None:
        for start in range(0, len(names), BATCH):
            batch = [{"Key": name} for name in names[start : start + BATCH]]
            answer = self._broom.delete_objects(Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True})
            for fault in answer.get("Errors", ()):
                log.warning("%s stays behind: %s", fault.get("Key"), fault.get("Code"))

    def _copy(self, key: str, files: list[StoredFile], folder: Path) -> None:
        """Bring an adopted folder's files here, each checked against its digest."""
        for path in {folder.joinpath(*parts(file.key)).parent for file in files}:
            path.mkdir(parents=True, exist_ok=True)
        _together([partial(self._load, f"{key}/{file.key}", file, folder.joinpath(*parts(file.key))) for file in files])

    def _load(self, key: str, file: StoredFile, path: Path) -> None:
        if file.size <= SMALL:
            path.write_bytes(self.get(key))
        else:
            with _answering(key), path.open("wb") as writer:
                self._client.download_fileobj(self._bucket, self._name(key), writer, Config=TRANSFER)
        if measured(path) != (file.size, file.sha256):
            raise ArtifactCorrupt(f"The stored file {path.name} does not have the bytes that were written.")
        sync(path)


def _client(config: Config) -> Any:
    """A client of its own session: sessions are not for several threads, clients are."""
    with _answering():
        return Session().client("s3", config=config)


def _copy_name(key: str, manifest: bytes | None) -> str:
    """What the copy of an adopted folder is called; with None, what the names of all its copies begin with."""
    return f"{'-'.join(parts(key))}-{'' if manifest is None else hashlib.sha256(manifest).hexdigest()[:16]}"


def _together(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """What the calls return, some of them at once; raises what the first one raised that failed."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        waiting = [pool.submit(call) for call in calls]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _answering(key: str = "") -> Iterator[None]:
    """Turn the client's errors into ours: StorageFull, ArtifactCorrupt for a key that is not there, else DependencyUnavailable."""
    with answering():
        try:
            yield
        except ClientError as error:
            raise _refusal(error, key) from error
        except (BotoCoreError, Boto3Error, RetriesExceededError) as error:  # some of them are OSErrors
            log.warning("the store does not answer: %s", error)
            raise DependencyUnavailable(f"the S3 store does not answer ({type(error).__name__})") from error


def _refusal(error: ClientError, key: str) -> TemperError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in FULL or status == 507:
        return StorageFull("no space is left in the S3 store")
    if key and code in ("NoSuchKey", "404"):
        return ArtifactCorrupt(f"The stored file {parts(key)[-1]} is gone.")
    log.warning("the store refuses: %s", error)
    return DependencyUnavailable(f"the S3 store refuses ({code or status})")
