"""A running service for benchmarks, and the data that they share."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np

from temper.embedded.launch import Launch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
Answer = dict[str, Any]


@contextmanager
def service(workers: int = 2, *, environment: Mapping[str, str] | None = None) -> Iterator[tuple[httpx2.Client, Launch]]:
    """A fresh embedded service and a client of it."""
    with (
        TemporaryDirectory() as folder,
        Launch(Path(folder) / "data", workers=workers, environment=environment) as launched,
        httpx2.Client(base_url=launched.url, timeout=600) as http,
    ):
        yield http, launched


def run(http: httpx2.Client, spec: Answer) -> tuple[Answer, float]:
    """A job from its post to its end, and the seconds that took."""
    began = time.monotonic()
    answer = http.post("/api/v1/jobs", json=spec)
    if answer.status_code != 202:
        raise SystemExit(answer.text)
    job = answer.json()
    while not job["done"]:
        job = http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 30, "since": job["version"]}).json()
    if job["state"] != "succeeded":
        raise SystemExit(json.dumps(job["error"]))
    return job, time.monotonic() - began


def report(http: httpx2.Client, job: Answer) -> Answer:
    """The report of a job's model."""
    found: Answer = http.get(f"/api/v1/models/{job['model']}/report").json()
    return found


def claim(words: str, holds: bool) -> bool:
    """Print what is claimed, and whether it holds."""
    print(f"  {words:66s} {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds


def present(path: Path) -> Path:
    """A file of the shared data; ends the benchmark in words where it is absent."""
    if not path.exists():
        raise SystemExit(f"{path} is absent: this benchmark needs the data sets that are not part of the project")
    return path


def upload_mnist(http: httpx2.Client, train: int = 60_000, test: int = 10_000, *, schema: Answer | None = None) -> list[int]:
    """Upload the first rows of both parts as one dataset `mnist`; the numbers of its test rows."""
    parts = [np.load(present(DATA / "mnist" / f"{name}.npz")) for name in ("train", "test")]
    content = io.BytesIO()
    rows = [part["x"][:count] for part, count in zip(parts, (train, test), strict=True)]
    labels = [part["y"][:count] for part, count in zip(parts, (train, test), strict=True)]
    np.savez_compressed(content, x=np.concatenate(rows), y=np.concatenate(labels))
    told = {"name": "mnist", "schema": json.dumps(schema)}
    answer = http.post("/api/v1/datasets", files={"file": ("mnist.npz", content.getvalue())}, data=told)
    if answer.status_code != 201:
        raise SystemExit(answer.text)
    return list(range(train, train + test))
