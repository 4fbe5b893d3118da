"""A row of the bad-input matrix: what is sent, and the status and problem that must come back."""

import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

JOBS, CHECK, DATASETS, MODELS = "/api/v1/jobs", "/api/v1/jobs:validate", "/api/v1/datasets", "/api/v1/models"
JSON = {"Content-Type": "application/json"}
MLP = {"type": "mlp", "hidden": [8]}
DIGITS = {"dataset": "digits", "architecture": MLP}
KEYS = {"type", "title", "status", "detail", "instance", "request_id"}
# Nothing of the service's inside may show: paths of files, stack traces, SQL.
INSIDE = re.compile(r"Traceback|File \"|site-packages|\.py\b|/home/|/root/|/tmp/|/usr/|\bSELECT\b|\bINSERT\b|sqlite|psycopg|sqlalchemy")


@dataclass(frozen=True)
class Answer:
    """What came back; `headers` in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Bench:
    """A running service, and what was made in it beforehand: references by name."""

    http: httpx2.Client
    data: Path
    log: Path
    refs: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **more: Any) -> Answer:
        answer = self.http.request(method, path.format(**self.refs), **more)
        return Answer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)

    def raw(self, *pieces: bytes, wait_s: float = 15) -> Answer:
        """The first answer to these bytes, sent one after the other; status 0 when there is none before the end."""
        with socket.create_connection((self.http.base_url.host, self.http.base_url.port), timeout=wait_s) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except (ConnectionResetError, BrokenPipeError):  # it has answered and closed
                pass
            return read(connection)


def read(connection: socket.socket) -> Answer:
    """The next answer on a connection; status 0 when it ends before one."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            return Answer(0, {}, head)
        head += more
    status, *lines = head.decode("latin-1").splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body, left = b"", int(headers.get("content-length", 0))
    while len(body) < left:
        body += connection.recv(left - len(body))
    return Answer(int(status.split(" ")[1]), headers, body)


@dataclass(frozen=True)
class Row:
    """Matrix row `number`: `send` brings the answer, whose status and problem are given; no slug where it is no problem."""

    number: int
    what: str
    send: Callable[[Bench], Answer]
    status: int
    slug: str | None
    pointer: str | None = None
    also: Callable[[Answer], object] = lambda answer: True
    on: str = "bench"

    def check(self, answer: Answer) -> None:
        """AssertionError unless this is the answer, and a whole and harmless problem."""
        assert answer.status == self.status, answer
        if self.slug is not None:
            problem = check_problem(answer)
            assert problem["type"] == f"/problems/{self.slug}", problem
            assert self.pointer is None or problem["errors"][0]["pointer"] == self.pointer, problem
        assert self.also(answer), answer


def check_problem(answer: Answer) -> Any:
    """The problem; AssertionError for one that is not as every problem is."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.body) <= 8192
    problem = answer.json
    assert KEYS <= problem.keys() <= KEYS | {"errors"}, problem
    assert problem["status"] == answer.status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(problem.get("errors", [])) <= 20
    assert all(each.keys() == {"pointer", "code", "message"} for each in problem.get("errors", []))
    assert not INSIDE.search(answer.body.decode()), problem
    assert answer.status not in (429, 503) or int(answer.headers["retry-after"]) > 0
    return problem


def asked(method: str, path: str, **more: Any) -> Callable[[Bench], Answer]:
    """A request; `path` may name what is in the bench."""
    return lambda bench: bench.ask(method, path, **more)


def posted(path: str, body: bytes) -> Callable[[Bench], Answer]:
    """Bytes sent as JSON."""
    return asked("POST", path, content=body, headers=JSON)


def sent(*pieces: bytes) -> Callable[[Bench], Answer]:
    """Bytes sent as they are."""
    return lambda bench: bench.raw(*pieces)


def spec(number: int, change: dict[str, Any], slug: str | None, pointer: str | None = None, **more: Any) -> Row:
    """A job that is changed in one place: refused, or without a slug valid."""
    body = {**DIGITS, **change}
    return Row(number, str(change)[:60], asked("POST", CHECK, json=body), 422 if slug else 200, slug, pointer, **more)


def upload(content: bytes, filename: str = "file.bin", **parts: str) -> Callable[[Bench], Answer]:
    """A file, and the other parts of its form."""
    return asked("POST", DATASETS, files={"file": (filename, content, "application/octet-stream")}, data={"name": "matrix", **parts})
