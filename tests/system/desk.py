"""Jobs over HTTP: posted, waited for, asked."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from tests.patience import PATIENCE_S

Answer = dict[str, Any]


class Desk:
    """What a user does with a running service."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http

    def post(self, spec: Answer) -> Answer:
        """The accepted job."""
        answer = self.http.post("/api/v1/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        return self._object(answer)

    def wait(self, job: Answer, *, until: Callable[[Answer], bool] = lambda job: bool(job["done"]), within_s: float = PATIENCE_S) -> Answer:
        """The job once it is as wished."""
        ends = time.monotonic() + within_s
        while not until(job):
            assert time.monotonic() < ends, job
            job = self._object(self.http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 2, "since": job["version"]}))
        return job

    def run(self, spec: Answer) -> Answer:
        """The job, succeeded."""
        job = self.wait(self.post(spec))
        assert job["state"] == "succeeded", job["error"]
        return job

    def model(self, job: Answer) -> Answer:
        """The model of a job."""
        return self._object(self.http.get(f"/api/v1/models/{job['model']}"))

    def report(self, job: Answer) -> Answer:
        """The report of a job's model."""
        return self._object(self.http.get(f"/api/v1/models/{job['model']}/report"))

    def predict(self, ref: str, inputs: list[Any], **asked: Any) -> Answer:
        """The answer to a prediction."""
        answer = self.http.post(f"/api/v1/models/{ref}/predict", json={"inputs": inputs, **asked})
        assert answer.status_code == 200, answer.text
        return self._object(answer)

    def rows(self, dataset: str, field: str, offset: int, limit: int) -> tuple[list[Any], list[Any]]:
        """Values of a field and of `label` in some rows."""
        items = self.http.get(f"/api/v1/datasets/{dataset}/rows", params={"offset": offset, "limit": limit}).json()["items"]
        return [item["values"][field] for item in items], [item["values"].get("label") for item in items]

    @staticmethod
    def _object(answer: httpx2.Response) -> Answer:
        found: Answer = answer.json()
        return found


def descendants(pid: int) -> Iterator[int]:
    """All processes below one."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    todo = [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            todo.append(child)
            yield child


ROLES = {"api": b"service.app", "worker": b"workers.app", "broker": b"-server"}


def trainers(pid: int) -> list[int]:
    """Trainers lead a process group of their own, and their parent is the fork server."""
    found = []
    for child in descendants(pid):
        try:
            if b"forkserver" in command(child) and os.getpgid(child) == child:
                found.append(child)
        except ProcessLookupError:
            continue
    return found


def command(pid: int) -> bytes:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def playing(role: str, roots: Iterable[int]) -> list[int]:
    """The processes of that role (api, worker, broker, trainer) among these and all below them."""
    if role == "trainer":
        return [child for root in roots for child in trainers(root)]
    everyone = [pid for root in roots for pid in (root, *descendants(root))]
    # What only holds a lifeline for the server names it too; the server itself begins with its name.
    if role == "broker":
        return [pid for pid in everyone if command(pid).split(b"\0")[0].split(b" ")[0].endswith(ROLES[role])]
    return [pid for pid in everyone if ROLES[role] in command(pid).split(b"\0")]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_trainers(roots: Iterable[int]) -> int:
    """SIGKILL every trainer; how many there were."""
    found = playing("trainer", roots)
    for child in found:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return len(found)
