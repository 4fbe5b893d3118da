"""Requests made from our own OpenAPI, well formed and not: no answer is a 5xx, and each is one that the document describes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx2
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.generation.meta import TestPhase
from schemathesis.pytest.lazy import get_all_tests

from service.app import create_app
from service.settings import Settings
from temper.embedded.launch import Launch
from tests.system.desk import Desk, playing

JOB = "job_known"  # put in place of a job's id, which nobody knows beforehand
MODELS, ALIASES, DATASETS, JOBS = (
    "/api/v1/models/{ref}",
    "/api/v1/models/{name}/aliases/{alias}",
    "/api/v1/datasets/{ref}",
    "/api/v1/jobs/{job_id}",
)
# What lets requests reach beyond a 404 and a 422: names that exist, and rows that a model takes.
ROWS = {"inputs": [[1.5] * 64, [0.0] * 64], "labels": ["1", "2"]}
# How much work an answer is, which says nothing about its form, and how much is enough.
WORK, ENOUGH = ("queries", "steps", "restarts", "samples", "n"), 5
# One in so many of a job's bodies that differ from an example in one value, which are thousands.
SUBMIT, SHARE = "POST /api/v1/jobs", 1 if os.environ.get("TEMPER_TEST_FUZZ") == "whole" else 4
KNOWN = {
    "models": ["plain"], "datasets": ["digits", "diabetes"], "jobs": [JOB],
    "files": ["model.safetensors", "model.onnx", "card.md"],
    "plots": ["learning_curves", "reliability"], "aliases": ["here"], "slugs": ["ragged"],
}  # fmt: skip


def known(operation: str, **parameters: str) -> dict[str, Any]:
    """Path parameters of an operation that are most of the time what is known."""
    named = {f"path.{name}": {"dictionary": values, "probability": 0.8} for name, values in parameters.items()}
    return {"include-name": operation, "parameters": named}


CONFIG = {
    # The same requests in every run.
    "generation": {"max-examples": 25, "deterministic": True, "database": "none"},
    "phases": {"stateful": {"enabled": False}},
    # What a schema says is right may still contradict the dataset, or another field.
    "checks": {"positive_data_acceptance": {"enabled": False}, "negative_data_rejection": {"expected-statuses": ["4xx"]}},
    "dictionaries": {name: {"values": values} for name, values in KNOWN.items()},
    "operations": [
        *(known(f"GET {MODELS}{rest}", ref="models") for rest in ("", "/report", "/report.html")),
        known(f"GET {MODELS}/files/{{name}}", ref="models", name="files"),
        known(f"GET {MODELS}/plots/{{name}}.svg", ref="models", name="plots"),
        *({"include-name": f"POST {MODELS}{rest}", "parameters": {"path.ref": "plain"}} for rest in ("/predict", "/attack", "/project")),
        known(f"PUT {ALIASES}", name="models", alias="aliases"),
        known(f"GET {ALIASES}/history", name="models", alias="aliases"),
        *(known(f"GET {DATASETS}{rest}", ref="datasets") for rest in ("", "/rows")),
        *(known(f"GET {JOBS}{rest}", job_id="jobs") for rest in ("", "/metrics", "/logs", "/events")),
        *(known(f"POST {JOBS}{rest}", job_id="jobs") for rest in ("/stop", "/cancel", "/retry")),
        known("GET /problems/{slug}", slug="slugs"),
        # Its body is that of a job, which gets every one.
        {"include-name": "POST /api/v1/jobs:validate", "phases": {"coverage": {"enabled": False}}},
    ],
}  # fmt: skip
# Nothing is opened or made by an application that is not started.
DOCUMENT: dict[str, Any] = create_app(Settings(data=Path("nowhere"))).openapi()
OPERATIONS = [f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]
DELETIONS = [operation for operation in OPERATIONS if operation.startswith("DELETE ")]
pytestmark = pytest.mark.timeout(1200)  # the body of a job has thousands of requests, which take half a minute to make


@pytest.fixture(scope="module")
def schema() -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config.from_dict(CONFIG))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a service with two models, and the id of a job that has ended; its worker sleeps, so that posted jobs wait."""
    data = tmp_path_factory.mktemp("fuzz") / "data"
    net = {"type": "mlp", "hidden": [8], "dropout": 0.2}
    with Launch(data, workers=1, environment={"TEMPER_UPLOAD_BYTES": str(2**20)}) as launched, worker_of(launched) as worker:
        with httpx2.Client(base_url=launched.url, timeout=60) as http:
            desk = Desk(http)
            job = desk.run({"dataset": "digits", "architecture": net, "name": "plain", "epochs": 1})
            desk.run({"dataset": "diabetes", "architecture": net, "name": "numbers", "epochs": 1, "ensemble": {"size": 2}})
        os.kill(worker, signal.SIGSTOP)
        yield launched.url, job["id"]
        assert '"level": "error"' not in (data / "logs" / "api.log").read_text()


@contextmanager
def worker_of(launched: Launch) -> Iterator[int]:
    """The process of the worker, which is awake at the end."""
    assert launched.process is not None
    found = playing("worker", [launched.process.pid])[0]
    try:
        yield found
    finally:
        os.kill(found, signal.SIGCONT)


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation not in DELETIONS])
def test_every_answer_is_described(operation: str, schema: schemathesis.BaseSchema, filled: tuple[str, str]) -> None:
    play(operation, schema, *filled)


@pytest.mark.parametrize("operation", DELETIONS)
def test_every_deletion_is_described(operation: str, schema: schemathesis.BaseSchema, filled: tuple[str, str]) -> None:
    """After all else, for what is gone is asked in vain."""
    play(operation, schema, *filled)


def play(operation: str, schema: schemathesis.BaseSchema, url: str, job: str) -> None:
    """Make and send the requests of one operation.

    schema.parametrize() would make those of all operations when tests are collected: half a minute in every process.
    """
    only = schema.exclude(lambda context: context.operation.label != operation)
    (made,) = get_all_tests(schema=only, test_func=send, settings=None, given_kwargs=None)
    assert isinstance(made, Ok), made
    made.ok()[1](url=url, job=job)


def send(case: schemathesis.Case, url: str, job: str) -> None:
    """AssertionError for an answer that the document does not describe."""
    if case.path_parameters.get("job_id") == JOB:
        case.path_parameters["job_id"] = job
    varied = case.meta is not None and case.meta.phase.name is TestPhase.COVERAGE
    if varied and case.operation.label == SUBMIT and crc32(repr(case.body).encode()) % SHARE:
        return
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
        case.body.update({name: value for name, value in ROWS.items() if name in case.body})
        for part in (case.body, *case.body.values()):
            spare(part)
    case.call_and_validate(base_url=url, timeout=240)


def spare(part: object) -> None:
    """Bound the work that a body asks for."""
    if isinstance(part, dict):
        part.update({name: min(part[name], ENOUGH) for name in WORK if isinstance(part.get(name), int)})
