"""The service with its files in a bucket: an API and a worker that share no folder, on PostgreSQL, Redis and moto's server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.patience import until
from tests.system.desk import Desk, kill_trainers
from tests.system.objects import BUCKET, Objects
from tests.system.separate import Separate
from tests.system.servers import Absent

ROWS = 90
NET = {"architecture": {"type": "mlp", "hidden": [8]}, "ensemble": {"size": 2, "bootstrap": True}}


class Apart(Separate):
    """Each process has a data folder of its own, as on hosts of their own."""

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        self.data = self.folder / f"data of the {words[0]}"
        return super()._start(*words)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    server = Objects(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, objects: Objects) -> Iterator[Apart]:
    told = {**objects.environment, "TEMPER_STORAGE_URL": f"s3://{BUCKET}/temper", "TEMPER_SHARDS": "2", "TEMPER_SLOTS": "2"}
    try:
        stack = Apart(tmp_path_factory.mktemp("apart"), workers=1, environment=told)
    except Absent as reason:
        pytest.skip(f"the leg on PostgreSQL and Redis could not run: {reason}")
    with stack:
        yield stack


@pytest.fixture(scope="module")
def desk(apart: Apart) -> Iterator[Desk]:
    with httpx2.Client(base_url=apart.url, timeout=60) as client:
        yield Desk(client)


def upload(desk: Desk, name: str) -> httpx2.Response:
    lines = ["a,b,kind", *(f"{n % 7},{n % 11},{'up' if n % 7 > 3 else 'down'}" for n in range(ROWS))]
    return desk.http.post("/api/v1/datasets", files={"file": (f"{name}.csv", "\n".join(lines).encode())}, data={"name": name})


def files(place: Path) -> list[str]:
    """Files that have no business on a host's own disk."""
    return [str(path) for path in place.rglob("*") if path.is_file() and {"models", "jobs", "staging"} & {*path.parts}]


def test_a_job_from_its_upload_to_its_deletion(desk: Desk, apart: Apart, objects: Objects) -> None:
    builtin = objects.names()
    answer = upload(desk, "points")
    assert answer.status_code == 201, answer.text
    dataset = answer.json()["id"]
    assert f"temper/datasets/{dataset}/manifest.json" in objects.names()
    assert desk.rows("points", "a", 8, 2)[0] == [1.0, 2.0]
    job = desk.run({"name": "points", "dataset": "points", "epochs": 3, **NET})
    model = desk.model(job)
    assert {f"temper/models/{model['id']}/{name}" for name in ("model.safetensors", "report.json")} <= {*objects.names()}
    until(lambda: objects.names("temper/jobs/") == [])  # checkpoints go when the model is there
    assert desk.predict("points", [{"a": 6, "b": 1}])["mode"] == "ensemble"
    assert desk.http.get("/api/v1/models/points/files/model.safetensors").headers["etag"] == f'"{model["sha256"]}"'
    robust = desk.run({"kind": "robustness", "model": "points", "attacks": [{"type": "fgsm"}], "epsilons": [0, 1], "rows": 8})
    assert robust["result"]["rows"] > 0
    assert files(apart.folder) == []
    for address in (f"jobs/{job['id']}", f"jobs/{robust['id']}", f"models/{model['id']}", f"datasets/{dataset}"):
        assert desk.http.delete(f"/api/v1/{address}").status_code == 204
    assert objects.names() == builtin


def test_training_goes_on_from_a_checkpoint_in_the_bucket(desk: Desk, apart: Apart, objects: Objects) -> None:
    spec: dict[str, Any] = {
        "name": "long",
        "dataset": "digits",
        "epochs": 900,
        "early_stopping": None,
        "checkpoint_interval_s": 0.1,
        **NET,
    }
    job = desk.post(spec)
    seen: set[str] = set()
    # Of two parts one has its third checkpoint by then: the first is known to the database.
    until(lambda: seen.update(objects.names(f"temper/jobs/{job['id']}/")) or len(seen) >= 5)
    assert kill_trainers(apart.roots)
    job = desk.wait(job)
    assert job["state"] == "succeeded", job["error"]
    assert "resumed at epoch" in desk.http.get(f"/api/v1/jobs/{job['id']}/logs").text
    until(lambda: objects.names("temper/jobs/") == [])


def doctor(apart: Apart) -> str:
    command = [sys.executable, "-P", "-m", "temper", "doctor"]
    told = {**apart.environment, "TEMPER_URL": apart.url}
    return subprocess.run(command, env=told, cwd=apart.folder, capture_output=True, text=True, timeout=60, check=False).stdout


def test_a_lost_store_is_named_and_what_needs_it_is_refused(desk: Desk, apart: Apart, objects: Objects) -> None:
    model = desk.model(desk.run({"name": "kept", "dataset": "digits", "epochs": 1, **NET}))
    asked = [[0.0] * 8] * 8
    desk.predict("kept", [asked])
    assert desk.http.get("/readyz").json()["dependencies"]["files"] == {"state": "ok", "required": True, "detail": "s3"}
    assert f"s3://{BUCKET}/temper answers" in doctor(apart)
    objects.end()
    assert "MEND  storage" in doctor(apart)
    ready = desk.http.get("/readyz")
    assert ready.status_code == 503
    named = ready.json()["dependencies"]["files"]
    assert (named["state"], named["detail"]) == ("failed", "s3: the S3 store does not answer (EndpointConnectionError)")
    for refused in (upload(desk, "lost"), desk.http.get(f"/api/v1/models/{model['id']}/report")):
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/dependency-unavailable")
        assert int(refused.headers["retry-after"]) > 0
    desk.predict("kept", [asked])  # what is in memory is answered
    assert desk.http.get("/livez").status_code == 200
