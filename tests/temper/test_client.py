"""The client against a small real HTTP server that answers as told: retries, errors, waiting."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper import AsyncClient, Client
from temper.client import default_url
from temper.embedded.folder import DataFolder
from temper.errors import Conflict, Invalid, JobCancelled, JobFailed, NotFound, ServerError, TooManyRequests, Unreachable, WaitTimeout
from temper.predictions import Prediction, as_json

HANG_UP = "hang up"
JOB: dict[str, Any] = {
    "id": "job_1", "name": "digits", "kind": "train", "state": "running", "done": False, "phase": "training", "version": 1, "best": None,
    "progress": {"fraction": 0.5, "epoch": 5, "epochs": 10, "members_done": 0, "members": 1, "eta_s": 3}, "model": None, "result": None,
    "error": None,
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Gives its `answers` in order (status, body, headers), and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        answer = self.server.answers.pop(0)
        if answer == HANG_UP:
            return
        status, body, *headers = answer
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        text = json.dumps(body).encode()
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, api_key="secret") as client:
        yield client


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (409, Conflict), (422, Invalid), (500, ServerError), (502, ServerError), (429, TooManyRequests)]
)
def test_an_error_answer_is_raised_with_its_problem(server: Server, client: Client, status: int, kind: type[Exception]) -> None:
    flaw = {"pointer": "/architecture/hidden/0", "code": "value-out-of-range", "message": "at least 1"}
    body = {"type": "/problems/a-slug", "title": "T", "detail": "D", "request_id": "r", "errors": [flaw]}
    server.answers = [(status, body)] * 9
    with pytest.raises(kind, match=r"(?s)T: D\n.*/architecture/hidden/0: at least 1") as caught:
        client.jobs.get("job_1").stop()
    assert (caught.value.slug, caught.value.request_id, caught.value.flaws[0]) == ("a-slug", "r", tuple(flaw.values()))
    assert server.asked[0][2]["Authorization"] == "Bearer secret"


def test_an_error_that_is_no_problem_document_is_raised_too(server: Server, client: Client) -> None:
    server.answers = [(404, "nothing")]
    with pytest.raises(NotFound, match="HTTP 404"):
        client.models.get("x")


def test_what_is_repeatable_is_repeated_under_one_key(server: Server, client: Client) -> None:
    server.answers = [(503, {}, {"Retry-After": "1"}), HANG_UP, (202, JOB)]
    assert client.jobs.create({"dataset": "digits"}).id == "job_1"
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in server.asked}) == 1
    assert [json.loads(body) for *_, body in server.asked] == [{"dataset": "digits"}] * 3


def test_what_is_not_repeatable_is_asked_once(server: Server, client: Client) -> None:
    server.answers = [(200, JOB), HANG_UP, (202, JOB)]
    with pytest.raises(Unreachable):
        client.jobs.get("job_1").stop()
    assert len(server.asked) == 2


def test_a_long_retry_after_is_not_waited_for(server: Server, client: Client) -> None:
    server.answers = [(429, {}, {"Retry-After": "3600"})]
    with pytest.raises(TooManyRequests):
        client.jobs.list()


def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.requests.FIRST_PAUSE_S", 0.01)
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable, match="GET /api/v1/jobs"):
        client.jobs.list()


def test_waiting_follows_versions_and_survives_disconnects(server: Server, client: Client) -> None:
    done = {**JOB, "state": "succeeded", "done": True, "version": 7, "model": "mdl_1"}
    server.answers = [(200, JOB), (200, {**JOB, "version": 5}), HANG_UP, HANG_UP, (200, done)]
    seen: list[int] = []
    job = client.jobs.get("job_1").wait(progress=lambda data: seen.append(data["version"]))
    assert job.done
    assert seen == [1, 5, 7]
    assert [path.rpartition("since=")[2] for _, path, _, _ in server.asked[1:]] == ["1", "5", "5", "5"]


@pytest.mark.parametrize(("state", "kind"), [("failed", JobFailed), ("cancelled", JobCancelled)])
def test_another_end_than_success_is_raised(server: Server, client: Client, state: str, kind: type[Exception]) -> None:
    error = {"title": "Diverged", "detail": "The loss was NaN"} if state == "failed" else None
    server.answers = [(200, {**JOB, "state": state, "done": True, "error": error})]
    job = client.jobs.get("job_1")
    with pytest.raises(kind, match="Diverged: The loss was NaN" if error else "cancelled"):
        job.wait()


def test_waiting_ends_in_time(server: Server, client: Client) -> None:
    server.answers = [(200, JOB)] * 9
    with pytest.raises(WaitTimeout, match="running after 1 s"):
        client.jobs.get("job_1").wait(timeout=1)


def test_lists_go_over_pages(server: Server, client: Client) -> None:
    page = {"items": [JOB] * 200, "next_cursor": "c"}
    server.answers = [(200, page), (200, {"items": [JOB] * 50, "next_cursor": None})]
    assert len(client.jobs.list(limit=300, state="running")) == 250
    assert [path for _, path, _, _ in server.asked] == [
        "/api/v1/jobs?limit=200&state=running", "/api/v1/jobs?limit=100&cursor=c&state=running"]  # fmt: skip


def test_an_upload_is_sent_whole_and_again(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "wine.csv").write_text("a,b\n1,2\n")
    server.answers = [HANG_UP, (201, {"id": "ds_1", "name": "wine", "rows": 1})]
    assert client.datasets.upload(tmp_path / "wine.csv", schema={"targets": ["b"]}).rows == 1
    for *_, body in server.asked:
        assert b'name="name"\r\n\r\nwine\r\n' in body
        assert b'{"targets": ["b"]}' in body
        assert b'filename="wine.csv"' in body
        assert b"a,b\n1,2\n" in body


def test_predictions_are_arrays_in_and_out(server: Server, client: Client) -> None:
    uncertainty = {"total": [0.1, 0.2], "aleatoric": [0.1, 0.2], "epistemic": None, "agreement": None}
    target = {"prediction": ["7", "1"], "classes": ["1", "7"], "probabilities": [[0.1, 0.9], [0.8, 0.2]], "uncertainty": uncertainty}
    answer = {"model": "mdl_1", "mode": "single", "rows": 2, "targets": {"label": target}}
    server.answers = [(200, {"id": "mdl_1", "name": "digits", "version": 1}), (200, answer)]
    prediction = client.models.get("digits").predict(np.array([[0.5, np.nan], [1, 2]]), mode="single", samples=np.int64(3))
    assert json.loads(server.asked[1][3]) == {"inputs": [[0.5, None], [1, 2]], "mode": "single", "samples": 3}
    assert prediction.prediction.tolist() == ["7", "1"]
    assert prediction.probabilities.shape == (2, 2)
    assert prediction.uncertainty is not None
    assert prediction.uncertainty["total"].tolist() == [0.1, 0.2]
    assert prediction.uncertainty["epistemic"] is None
    assert np.asarray(prediction).tolist() == ["7", "1"]


def test_infinity_is_refused_here() -> None:
    with pytest.raises(ValueError, match="JSON"), Client("http://127.0.0.1:9") as client:
        client.jobs.create({"seed": float("inf")})


def test_json_types_of_numpy() -> None:
    value = {"x": np.float64(0.5), "rows": [np.int32(1), (np.bool_(True), np.nan)], "name": "a"}
    assert as_json(value) == {"x": 0.5, "rows": [1, [True, None]], "name": "a"}


def test_the_awaiting_client_does_the_same(server: Server) -> None:
    done = {**JOB, "state": "succeeded", "done": True, "version": 2}
    server.answers = [(200, JOB), HANG_UP, (200, done)]

    async def follow() -> str:
        async with AsyncClient(server.url) as client:
            job = await client.jobs.get("job_1")
            return (await job.wait()).state

    assert asyncio.run(follow()) == "succeeded"


def test_the_address_is_that_of_the_embedded_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_URL", raising=False)
    monkeypatch.setenv("TEMPER_DATA", str(tmp_path))
    assert default_url() == "http://127.0.0.1:8000"
    folder = DataFolder(tmp_path)
    folder.take()
    folder.announce("http://127.0.0.1:4321")
    assert default_url() == "http://127.0.0.1:4321"
    monkeypatch.setenv("TEMPER_URL", "http://elsewhere")
    assert default_url() == "http://elsewhere"
    folder.release()


def test_rows_of_numbers_and_categories_keep_what_they_are() -> None:
    """numpy would make text of all of them."""
    answer = {
        "mode": "single",
        "targets": {"input": {"prediction": [[1.5, "red"], [2.0, None]], "code": [[0.1], [0.2]], "error": [0.5, 0.25]}},
    }
    said = Prediction(answer)
    assert said.prediction.tolist() == [[1.5, "red"], [2.0, None]]
    assert (said.code.shape, said.error.tolist()) == ((2, 1), [0.5, 0.25])
    numbers = Prediction({"mode": "single", "targets": {"input": {"prediction": [[[1.0, 2.0]], [[3.0, 4.0]]]}}})
    assert (numbers.prediction.dtype, numbers.prediction.shape) == (np.dtype(float), (2, 1, 2))
    assert numbers.code is None
