"""Faults 30, 31, 44, 52, 54 and 55: full disks, floods, no descriptors left, and two reconcilers at once."""

import contextlib
import json
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.errors import StorageFull
from service.inference.serving import Shelf
from service.storage import jobs, shards
from service.storage.files import Folder
from service.storage.folding import lock_shards
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.migrate import upgrade
from service.storage.sessions import Database
from tests.chaos.field import QUICK, SPEC, Field
from tests.patience import until

MIB = 2**20
ON_EMBEDDED = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes at that folder."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@ON_EMBEDDED
def test_30_a_checkpoint_finds_the_disk_full(field: Field) -> None:
    spec = {**SPEC, "name": "unstored", "architecture": {"type": "mlp", "hidden": [1000, 1000]}, "epochs": 4, "checkpoint_interval_s": 0}
    with small_disk(field.files / "jobs", 6 * MIB):
        job = field.desk.wait(field.desk.post(spec))
        assert (job["state"], job["error"]["type"], job["error"]["status"]) == ("failed", "/problems/storage-full", 507)
        assert field.http.get("/readyz").status_code == 200
    assert field.http.post(f"/api/v1/jobs/{job['id']}/retry").status_code == 202
    done = field.ends(job)
    assert done["state"] == "succeeded", done["error"]


def test_31_a_commit_finds_the_disk_full(tmp_path: Path) -> None:
    """Nothing is half there, and there is work again once there is room."""
    with small_disk(tmp_path / "disk", 2 * MIB):
        upgrade(f"sqlite:///{tmp_path / 'disk' / 'temper.db'}")
        database = Database(f"sqlite:///{tmp_path / 'disk' / 'temper.db'}")
        (tmp_path / "disk" / "filler").write_bytes(b"\0" * (MIB // 2))

        def submit() -> None:
            with database.write() as c:
                draft = JobDraft("train", "digits", {"text": "x" * 20_000}, 1, 1)
                jobs.insert(c, "default", draft, [ShardDraft("train", (0,))])

        accepted = 0
        with pytest.raises(StorageFull):
            while accepted < 1000:
                submit()
                accepted += 1
        with database.read() as c:
            assert c.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one() == accepted
            assert c.exec_driver_sql("SELECT count(*) FROM shards").scalar_one() == accepted
        (tmp_path / "disk" / "filler").unlink()
        submit()
        database.close()


@ON_EMBEDDED
def test_44_a_flood_of_jobs_is_taken_or_put_off(field: Field) -> None:
    with field.paused("worker"), ThreadPoolExecutor(8) as callers:
        posted = [callers.submit(field.http.post, "/api/v1/jobs", json={**QUICK, "name": f"flood-{n}"}) for n in range(80)]
        answers = [future.result() for future in posted]
        assert {answer.status_code for answer in answers} <= {202, 429}
        taken = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert len(taken) == len(set(taken)) == field.rows("SELECT count(*) FROM jobs WHERE name LIKE 'flood-%'")[0][0]
        assert {future.status_code for future in callers.map(lambda job: field.http.post(f"/api/v1/jobs/{job}/cancel"), taken)} == {202}


@ON_EMBEDDED
def test_52_a_hundred_first_requests_load_a_model_once(field: Field) -> None:
    job = field.desk.run({**QUICK, "name": "loaded"})
    rows = field.rows("SELECT files FROM models WHERE id = :model", model=job["model"])
    files = rows[0][0] if isinstance(rows[0][0], dict) else json.loads(rows[0][0])
    loads: list[Any] = []

    class Counted(Shelf):
        def _load(self, files: Any) -> Any:
            loads.append(files)
            return super()._load(files)

    shelf = Counted(Folder(field.files))
    gate = threading.Barrier(20)

    def get() -> Any:
        gate.wait()
        return [shelf.get(job["model"], files) for _ in range(5)]

    with ThreadPoolExecutor(20) as callers:
        found = [model for future in [callers.submit(get) for _ in range(20)] for model in future.result()]
    assert len(found) == 100
    assert len({id(model) for model in found}) == len(loads) == 1


@ON_EMBEDDED
def test_54_an_api_without_descriptors_recovers(field: Field) -> None:
    (api,) = field.pids("api")
    most = resource.prlimit(api, resource.RLIMIT_NOFILE)
    resource.prlimit(api, resource.RLIMIT_NOFILE, (len([*Path(f"/proc/{api}/fd").iterdir()]) + 8, most[1]))
    port = int(field.stack.url.rpartition(":")[2])
    crowd: list[socket.socket] = []
    try:
        crowd.extend(socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(60))
        with contextlib.suppress(httpx2.TransportError):
            assert httpx2.get(f"{field.stack.url}/readyz", timeout=3).status_code in (200, 503)
    finally:
        for each in crowd:
            each.close()
        resource.prlimit(api, resource.RLIMIT_NOFILE, most)
    assert field.pids("api") == [api]

    def answers() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{field.stack.url}/readyz", timeout=3).status_code == 200
        return False

    until(answers)


def test_55_a_reconciler_that_comes_late_changes_nothing(field: Field) -> None:
    """It has found the expired shard, and while it waits for the rows another gives them back and a worker claims them."""
    with field.paused("worker"):
        job = field.desk.post({**QUICK, "name": "reconciled"})
        with field.paused("api"), ThreadPoolExecutor(1) as callers:
            with field.database.write() as c:
                claim = shards.claim(c, "lost", 0.2, max_attempts=3, engine={"threads": 1})
            assert claim is not None
            assert claim.job_id == job["id"]
            time.sleep(0.4)
            with field.database.write() as c:
                lock_shards(c, job["id"])
                late = callers.submit(field.database.transact, partial(shards.reconcile, max_attempts=3))
                time.sleep(0.5)
                assert shards.reconcile(c, 3)
                assert shards.claim(c, "found", 0.5, max_attempts=3, engine={"threads": 1}) is not None
            late.result()
            assert field.states(job).count(("queued", "worker lost")) == 1
    done = field.ends(job)
    assert (done["state"], done["attempt"]) == ("succeeded", 3)
