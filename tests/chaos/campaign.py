"""Many small jobs whose weights are known, submitted through whatever happens, and the judgement of what became of them."""

import hashlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from sqlalchemy import text

from service.storage.sessions import Database
from tests.patience import PATIENCE_S
from tests.system.separate import Separate, Stack, visitor

KINDS = 8
CALLERS = 6
AGAIN = frozenset({409, 429, 500, 502, 503, 504})
Answer = dict[str, Any]


def spec(number: int) -> Answer:
    """The job of that number: one of a few small specs, each with some of what must survive a restart."""
    kind = number % KINDS
    return {
        "name": f"chaos-{number}",
        "dataset": "digits",
        "split": {"validation": 0.2, "seed": 1},
        "architecture": {"type": "mlp", "hidden": [4 + kind], "dropout": 0.2 if kind % 2 else 0.0},
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}] if kind % 4 < 2 else [],
        "ensemble": {"size": 2, "bootstrap": True} if kind == 3 else {},
        "schedule": {"type": "cosine"},
        "epochs": 1 + kind % 3,
        "batch_size": 128,
        "seed": kind,
        "checkpoint_interval_s": 0,
    }


class Verdict(NamedTuple):
    """What went wrong, each as text; nothing did when all are empty."""

    lost: list[str]
    doubled: list[str]
    wrong: list[str]

    def __bool__(self) -> bool:
        """Whether something went wrong."""
        return any(self)


class Campaign:
    """The jobs of one run: their ids by number, and the weights that each kind must end with."""

    def __init__(self, stack: Stack) -> None:
        self.http = visitor(stack, 10)
        self.database = Database(stack.postgres.url if isinstance(stack, Separate) else f"sqlite:///{Path(stack.data) / 'temper.db'}")
        self.files = Path(stack.data) / "files"
        self.expected: dict[int, str] = {}
        self.ids: dict[int, str] = {}

    def rehearse(self) -> None:
        """Run one job of each kind undisturbed, for its weights."""
        for kind in range(KINDS):
            self.submit(kind - KINDS)
        self.await_all()
        for kind in range(KINDS):
            self.expected[kind] = self._weights(self.ids.pop(kind - KINDS))

    def submit(self, number: int, *, within_s: float = PATIENCE_S) -> None:
        """Post a job until it is known to be accepted."""
        ends = time.monotonic() + within_s
        while True:
            try:
                answer = self.http.post("/api/v1/jobs", json=spec(number), headers={"Idempotency-Key": f"key-{number}"})
                if answer.status_code in (200, 202):
                    self.ids[number] = str(answer.json()["id"])
                    return
                assert answer.status_code in AGAIN, answer.text
            except httpx2.TransportError:
                pass
            assert time.monotonic() < ends, f"job {number} was not accepted within {within_s} s"
            time.sleep(0.1)

    def submit_all(self, jobs: int, over_s: float) -> None:
        """Post jobs at an even pace, several at once: one that waits for the API holds no other."""
        with ThreadPoolExecutor(CALLERS) as callers:
            futures = []
            for number in range(jobs):
                futures.append(callers.submit(self.submit, number))
                time.sleep(over_s / jobs)
            for future in futures:
                future.result()

    def await_all(self, patience_s: float = PATIENCE_S) -> None:
        """Return once all jobs have ended, or none has for so long; it is the verdict that says which did not.

        A busy machine may take minutes for many jobs; what is lost is a job after which nothing ends any more.
        """
        left, since = self.open(), time.monotonic()
        while left and time.monotonic() - since < patience_s:
            time.sleep(0.25)
            before, left = left, self.open()
            since = time.monotonic() if left < before else since

    def open(self) -> int:
        """How many jobs have not ended, by the database."""
        query = text("SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')")
        with self.database.read() as c:
            return int(c.execute(query).scalar_one())

    def verdict(self) -> Verdict:
        """Judge by the rows and the files alone."""
        query = text("SELECT name, id, state, model_id, error FROM jobs")
        with self.database.read() as c:
            rows = [row for row in c.execute(query) if int(row.name.removeprefix("chaos-")) >= 0]
            models = Counter(name for (name,) in c.execute(text("SELECT name FROM models")))
            ends = Counter(job for (job,) in c.execute(text("SELECT job_id FROM events WHERE kind = 'end'")))
            gaps = c.execute(text("SELECT job_id, count(*), max(number) FROM events GROUP BY job_id HAVING count(*) <> max(number)")).all()
        lost = [f"{row.name} {row.id} {row.state} {row.error}" for row in rows if row.state != "succeeded" or row.model_id is None]
        known = {row.id for row in rows}
        lost += [f"chaos-{number} {job} has no row" for number, job in self.ids.items() if job not in known]
        names = Counter(row.name for row in rows)
        doubled = [f"{name}: {count} jobs, {models[name]} models" for name, count in names.items() if count != 1 or models[name] > 1]
        doubled += [f"{row.name}: {ends[row.id]} ends" for row in rows if row.state == "succeeded" and ends[row.id] != 1]
        doubled += [f"events of {job}: {count} up to {last}" for job, count, last in gaps]
        wrong = [row.name for row in rows if row.model_id and self._sha(row.model_id) != self._known(row.name)]
        return Verdict(lost, doubled, wrong)

    def _known(self, name: str) -> str:
        return self.expected[int(name.removeprefix("chaos-")) % KINDS]

    def _weights(self, job: str) -> str:
        with self.database.read() as c:
            return self._sha(c.execute(text("SELECT model_id FROM jobs WHERE id = :job"), {"job": job}).scalar_one())

    def _sha(self, model: str) -> str:
        return hashlib.sha256((self.files / "models" / model / "model.safetensors").read_bytes()).hexdigest()

    def leftovers(self) -> list[str]:
        """Folders of jobs and models that no row needs any more."""
        with self.database.read() as c:
            models = {model for (model,) in c.execute(text("SELECT id FROM models"))}
        jobs = [path.name for path in (self.files / "jobs").glob("*")]
        return jobs + [path.name for path in (self.files / "models").glob("*") if path.name not in models]

    def close(self) -> None:
        """Give everything back."""
        self.http.close()
        self.database.close()
