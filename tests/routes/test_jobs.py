"""Jobs over HTTP, without a worker: accepted, listed, waited for, cancelled, deleted."""

import threading
import time
from typing import Any

import httpx2
import pytest

from service.routes.series import thinned
from service.storage import logs, metrics
from service.storage.metrics import Metric
from service.storage.sessions import Database

SPEC = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [16]}}


def submit(http: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/api/v1/jobs", json={**SPEC, **fields})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_is_accepted_whole(http: httpx2.Client) -> None:
    job = submit(http, name="first", labels={"team": "a"}, epochs=3)
    assert (job["state"], job["done"], job["version"], job["attempt"]) == ("queued", False, 1, 1)
    assert job["spec"]["epochs"] == job["progress"]["epochs"] == 3
    assert job["created_at"].endswith("Z")
    assert job["queue_position"] >= 1
    assert job["model"] is None
    assert http.get(job["links"]["self"]).json()["id"] == job["id"]


def test_validate_starts_nothing(http: httpx2.Client) -> None:
    before = len(http.get("/api/v1/jobs", params={"limit": 200}).json()["items"])
    plan = http.post("/api/v1/jobs:validate", json=SPEC).json()
    assert plan["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert [layer["name"] for layer in plan["layers"]] == ["hidden.0", "head.label"]
    assert (plan["unshared"], plan["saved_by_sharing"]) == (plan["parameters"], 0)
    keys = {"spec", "layers", "parameters", "saved_by_tying", "unshared", "saved_by_sharing", "memory_bytes", "flops", "steps", "shards"}
    assert plan.keys() == keys | {"warnings"}
    assert len(http.get("/api/v1/jobs", params={"limit": 200}).json()["items"]) == before


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({**SPEC, "dataset": "none"}, "/dataset", "not-found"),
        ({**SPEC, "epoch": 3}, "/epoch", "unknown-field"),
        ({**SPEC, "architecture": {"type": "mlp", "hidden": ["16"]}}, "/architecture/hidden/0", "wrong-type"),
        ({**SPEC, "architecture": {"type": "mlp", "hidden": [0]}}, "/architecture/hidden/0", "value-out-of-range"),
        ({**SPEC, "epochs": True}, "/epochs", "wrong-type"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_place(http: httpx2.Client, spec: Any, pointer: str, code: str) -> None:
    answer = http.post("/api/v1/jobs", json=spec)
    assert answer.status_code == 422
    assert [(flaw["pointer"], flaw["code"]) for flaw in answer.json()["errors"]] == [(pointer, code)]


def test_a_refusal_stays_small_and_clean(http: httpx2.Client) -> None:
    wrong = {**SPEC, "labels": {f"\u202e{n}" + "k" * 200: n for n in range(1000)}}
    answer = http.post("/api/v1/jobs", json=wrong)
    assert answer.status_code == 422
    assert len(answer.content) <= 8192
    assert 1 <= len(answer.json()["errors"]) <= 20
    assert "\u202e" not in answer.text


def test_list_filters_and_pages(http: httpx2.Client) -> None:
    ids = [submit(http, name="paged", labels={"page": "x:y"})["id"] for _ in range(5)]
    query: dict[str, Any] = {"name": "paged", "label": "page:x:y", "state": "queued", "kind": "train", "limit": 2}
    found, cursor = [], None
    while True:
        page = http.get("/api/v1/jobs", params={**query, **({"cursor": cursor} if cursor else {})}).json()
        found += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == ids[::-1]
    assert http.get("/api/v1/jobs", params={"label": "page:other"}).json()["items"] == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("limit=0", "/query/limit"), ("limit=x", "/query/limit"), ("limit=1000000000", "/query/limit"), ("state=odd", "/query/state"),
     ("label=odd", "/query/label"), ("stat=queued", "/query/stat"), ("name=a%00", "/query/name")],
)  # fmt: skip
def test_queries_are_strict(http: httpx2.Client, query: str, pointer: str) -> None:
    answer = http.get(f"/api/v1/jobs?{query}")
    assert answer.status_code == 422
    assert [flaw["pointer"] for flaw in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=nan", "since=-1", "since=1.5", "since=9223372036854775808"])
def test_waiting_has_bounds(http: httpx2.Client, query: str) -> None:
    job = submit(http)
    assert http.get(f"/api/v1/jobs/{job['id']}?{query}").status_code == 422


@pytest.mark.parametrize("job_id", ["job_none", "9" * 5000, "%00", "..%2f..%2fx", "job_01m825mwxegx0390rp1jgkfdja"])
def test_ids_that_name_nothing(http: httpx2.Client, job_id: str) -> None:
    assert http.get(f"/api/v1/jobs/{job_id}").status_code == 404


def test_wait_answers_at_a_change_and_when_the_time_is_up(http: httpx2.Client) -> None:
    job = submit(http)
    began = time.monotonic()
    assert http.get(f"/api/v1/jobs/{job['id']}?wait=30").json()["version"] == 1  # 1 > 0: at once
    assert time.monotonic() - began < 10
    assert http.get(f"/api/v1/jobs/{job['id']}?wait=0.5&since=1").json()["state"] == "queued"
    assert 0.4 < time.monotonic() - began < 20
    cancelled = threading.Timer(0.5, lambda: http.post(f"/api/v1/jobs/{job['id']}/cancel"))
    cancelled.start()
    began = time.monotonic()
    changed = http.get(f"/api/v1/jobs/{job['id']}?wait=30&since=1").json()
    assert changed["state"] == "cancelled"
    assert changed["version"] > 1
    assert time.monotonic() - began < 15
    cancelled.join()
    began = time.monotonic()
    assert http.get(f"/api/v1/jobs/{job['id']}?wait=30&since=999").json()["done"]  # an ended job waits for nothing
    assert time.monotonic() - began < 10


def test_stop_cancel_and_delete(http: httpx2.Client) -> None:
    job = submit(http)
    here = f"/api/v1/jobs/{job['id']}"
    assert http.post(f"{here}/stop").json()["type"] == "/problems/not-running"
    assert http.delete(here).json()["type"] == "/problems/job-running"
    assert http.post(f"{here}/cancel").status_code == 202
    assert http.post(f"{here}/cancel").status_code == 200
    assert http.post(f"{here}/stop").json()["type"] == "/problems/already-terminal"
    assert http.delete(here).status_code == 204
    assert http.get(here).status_code == 404


def test_series_and_logs(http: httpx2.Client, api: Any) -> None:
    job = submit(http)["id"]
    database = Database(f"sqlite:///{api.data / 'temper.db'}")
    with database.write() as c:
        rows = [Metric(member, epoch, "validation.loss", 1 / (epoch + 1)) for member in (0, 1) for epoch in range(50)]
        metrics.write(c, "default", job, [*rows, Metric(0, 0, "=odd", None)])
        logs.write(c, "default", job, 0, [("info", "epoch 1\nforged line")])
    database.close()
    here = f"/api/v1/jobs/{job}"
    columns = http.get(f"{here}/metrics").json()
    assert columns.keys() == {"epoch", "member", "name", "value"}
    assert {len(column) for column in columns.values()} == {101}
    only = http.get(f"{here}/metrics", params={"name": "validation.loss", "member": 1}).json()
    assert set(only["member"]) == {1}
    text = http.get(f"{here}/metrics", headers={"Accept": "text/csv"})
    assert text.headers["content-type"].startswith("text/csv")
    assert text.text.splitlines()[:2] == ["epoch,member,name,value", "0,0,'=odd,"]
    log = http.get(f"{here}/logs")
    assert log.headers["content-type"].startswith("text/plain")
    assert len(log.text.splitlines()) == 1
    assert "epoch 1\\nforged line" in log.text


def test_thinning_keeps_extremes() -> None:
    values = [float(place % 97) for place in range(1000)]
    values[501], values[777] = -5.0, 500.0
    kept = thinned([Metric(0, place, "loss", value) for place, value in enumerate(values)], 50)
    assert len(kept) <= 50
    assert {-5.0, 500.0} <= {row.value for row in kept}
    assert (kept[0].epoch, kept[-1].epoch) == (0, 999)
    assert [row.epoch for row in kept] == sorted(row.epoch for row in kept)
