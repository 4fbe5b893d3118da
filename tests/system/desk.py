"""Jobs over HTTP: posted, waited for, asked."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

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

    def wait(self, job: Answer, *, until: Callable[[Answer], bool] = lambda job: bool(job["done"]), within_s: float = 90) -> Answer:
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


def trainers(pid: int) -> list[int]:
    """Trainers lead a process group of their own, and their parent is the fork server."""
    found = []
    for child in descendants(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"forkserver" in line and os.getpgid(child) == child:
                found.append(child)
        except (OSError, ProcessLookupError):
            continue
    return found


def kill_trainers(pid: int) -> int:
    """SIGKILL every trainer; how many there were."""
    found = trainers(pid)
    for child in found:
        os.kill(child, signal.SIGKILL)
    return len(found)
