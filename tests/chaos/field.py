"""A running stack under attack: its processes, its database, its jobs, and what must be whole again at the end."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from sqlalchemy import text

from service.storage.sessions import Database
from tests.patience import until
from tests.system.desk import Desk, alive, playing
from tests.system.separate import Separate, Stack, roots, visitor

LEASE_S = 3.0
Answer = dict[str, Any]
SPEC: Answer = {
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [64, 64], "dropout": {"input": 0.1, "hidden": 0.4}},
    "augmentation": [{"type": "gaussian_noise", "std": 0.5}],
    "early_stopping": None,
    "checkpoint_interval_s": 0.2,
}
QUICK: Answer = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [4]}, "epochs": 1, "batch_size": 512}


class Field:
    """What a fault is done to, and where its consequences are read."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        url = stack.postgres.url if isinstance(stack, Separate) else f"sqlite:///{Path(stack.data) / 'temper.db'}"
        self.http = visitor(stack, 30)
        self.desk = Desk(self.http)
        self.database = Database(url)
        self.files = Path(stack.data) / "files"
        self.expected: dict[int, str] = {}

    @property
    def separate(self) -> Separate:
        """The stack whose processes the tests start themselves."""
        assert isinstance(self.stack, Separate)
        return self.stack

    def pids(self, role: str) -> list[int]:
        """The living processes of a role."""
        return [pid for pid in playing(role, roots(self.stack)) if alive(pid)]

    def strike(self, role: str, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to all of a role, of whom there is one at least; a deadly one is waited for."""
        found = self.pids(role)
        assert found, f"no {role}"
        for pid in found:
            os.kill(pid, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            until(lambda: not any(alive(pid) for pid in found))
        return found

    @contextmanager
    def paused(self, role: str) -> Iterator[list[int]]:
        """All of a role hang for as long as the block runs, none of them in the middle of a write that holds up all others."""
        found = self.strike(role, signal.SIGSTOP)
        for _ in range(20):
            if self._writable():
                break
            self._wake(found)
            time.sleep(0.05)
            found = self.strike(role, signal.SIGSTOP)
        try:
            yield found
        finally:
            self._wake(found)

    def _wake(self, pids: list[int]) -> None:
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)

    def _writable(self) -> bool:
        """Whether SQLite's one lock is free; PostgreSQL locks rows."""
        if isinstance(self.stack, Separate):
            return True
        with closing(sqlite3.connect(self.stack.data / "temper.db", timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
        return True

    def whole(self) -> None:
        """Start what is dead, and return once the API answers and there are workers."""
        until(self._whole)

    def _whole(self) -> bool:
        if isinstance(self.stack, Separate):
            for server in (self.stack.postgres, self.stack.redis):
                if server.process is None or server.process.poll() is not None:
                    server.start()
            self.stack.tend()
        try:
            ready = self.http.get("/readyz").status_code == 200
        except httpx2.HTTPError:
            return False
        return ready and bool(self.pids("worker")) and bool(self.pids("broker"))

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Nobody writes to the table (on SQLite: to any) for as long as the block runs."""
        if isinstance(self.stack, Separate):
            with psycopg.connect(self.stack.postgres.url) as connection:
                connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                yield
                connection.rollback()
            return
        held = sqlite3.connect(Path(self.stack.data) / "temper.db", isolation_level=None, timeout=10)
        held.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            held.rollback()
            held.close()

    def rows(self, query: str, **values: Any) -> list[Any]:
        """The rows of a query."""
        with self.database.read() as c:
            return list(c.execute(text(query), values).all())

    def count(self, name: str) -> int:
        """How many jobs have that name."""
        return int(self.rows("SELECT count(*) FROM jobs WHERE name = :name", name=name)[0][0])

    def begun(self, spec: Answer, share: float = 0.15) -> Answer:
        """A posted job that has come so far and has a checkpoint."""
        job = self.desk.wait(self.desk.post(spec), until=lambda job: bool(job["done"] or job["progress"]["fraction"] >= share))
        assert not job["done"], job
        until(lambda: self.rows("SELECT 1 FROM shards WHERE job_id = :job AND checkpoint IS NOT NULL", job=job["id"]))
        return job

    def ends(self, job: Answer) -> Answer:
        """The job once it is done."""
        found: Answer = self.http.get(f"/api/v1/jobs/{job['id']}").json()
        return self.desk.wait(found)

    def spec(self, name: str, epochs: int = 150) -> Answer:
        """A job of some seconds."""
        return {**SPEC, "name": name, "epochs": epochs}

    def undisturbed(self, epochs: int = 150) -> str:
        """The weights' digest of such a job that nothing happens to."""
        if epochs not in self.expected:
            job = self.desk.run(self.spec("undisturbed", epochs))
            self.expected[epochs] = str(self.desk.model(job)["sha256"])
        return self.expected[epochs]

    def same(self, job: Answer, epochs: int = 150) -> None:
        """The job has succeeded once, with the weights of an undisturbed one."""
        assert job["state"] == "succeeded", job
        model = self.desk.model(job)
        assert model["sha256"] == self.undisturbed(epochs)
        assert model["version"] == 1 or model["name"] == "undisturbed"
        assert len(self.rows("SELECT id FROM models WHERE job_id = :job", job=job["id"])) == 1
        assert self.rows("SELECT count(*) FROM events WHERE job_id = :job AND kind = 'end'", job=job["id"])[0][0] == 1

    def states(self, job: Answer) -> list[tuple[str, str | None]]:
        """The job's history: (state, reason)."""
        found = [
            row[0] for row in self.rows("SELECT data FROM events WHERE job_id = :job AND kind = 'state' ORDER BY number", job=job["id"])
        ]
        told = [data if isinstance(data, dict) else json.loads(data) for data in found]
        return [(data["state"], data["reason"]) for data in told]

    def log(self, job: Answer) -> str:
        """The job's log."""
        return self.http.get(f"/api/v1/jobs/{job['id']}/logs").text

    def close(self) -> None:
        """Give everything back."""
        self.http.close()
        self.database.close()
