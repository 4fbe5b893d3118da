"""A real worker process on a SQLite file, with a trainer that learns nothing."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.queue import Doorbell
from service.settings import Settings
from service.storage import events, jobs, logs
from service.storage.jobs import Job, JobDraft, ShardDraft
from service.storage.migrate import upgrade
from service.storage.sessions import Database
from tests.patience import PATIENCE_S, until

HERE = Path(__file__).parent
PROJECT = "default"
PROGRAM = """
import sys
from service.settings import Settings
from workers.app import run
sys.exit(run(Settings(), entry="fake_trainer:main", preload=()))
"""


class House:
    """A data folder with its database, and the workers started on it."""

    def __init__(self, data: Path, broker_url: str, **settings: Any) -> None:
        quick = {"lease_s": 3.0, "heartbeat_s": 0.5, "poll_s": 1.0, "grace_s": 4.0, "max_attempts": 3, "slots": 1}
        self.settings = Settings(data=data, broker_url=broker_url, **{**quick, **settings})
        data.mkdir(exist_ok=True)
        upgrade(self.settings.database)
        self.database = Database(self.settings.database)
        self.bell = Doorbell(broker_url)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = data / "worker.log"

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker and wait till it lives."""
        told = {f"TEMPER_{name.upper()}": str(value) for name, value in self.settings.model_dump().items()}
        environment = {**os.environ, **told, "PYTHONPATH": f"{HERE}:{HERE.parent.parent}", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=log, stderr=log, cwd=HERE)
        self.workers.append(process)
        return process

    def submit(self, *, parts: int = 1, ring: bool = True, **spec: Any) -> str:
        draft = JobDraft("train", "digits", spec, parts, spec.get("epochs", 3))
        with self.database.write() as c:
            job = jobs.insert(c, PROJECT, draft, [ShardDraft("train", (n,)) for n in range(parts)])
        if ring:
            self.bell.ring()
        return job

    def job(self, job: str) -> Job:
        with self.database.read() as c:
            return jobs.get(c, PROJECT, job)

    def ask(self, what: Any, job: str) -> None:
        with self.database.write() as c:
            what(c, PROJECT, job)

    def states(self, job: str) -> list[tuple[str, str | None]]:
        with self.database.read() as c:
            found = events.after(c, PROJECT, job, 0)
        return [(event.data["state"], event.data["reason"]) for event in found if event.kind == "state"]

    def lines(self, job: str) -> list[str]:
        with self.database.read() as c:
            return [line.message for line in logs.read(c, PROJECT, job)]

    def ends(self, job: str, within_s: float = PATIENCE_S) -> Job:
        """The job once it is done."""
        try:
            return until(lambda: (found := self.job(job)).done and found, within_s)
        except AssertionError:
            raise AssertionError(f"not done within {within_s} s; the workers said: {self.log.read_text()[-5000:]}") from None

    def trainer(self, job: str) -> int:
        """The process of the job's trainer, once it speaks."""
        return int(until(lambda: self.lines(job))[0].split()[1])

    def close(self) -> None:
        for process in self.workers:
            process.kill()
            process.wait()
        self.bell.close()
        self.database.close()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a private Redis on a unix socket."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server on PATH")
    place = tmp_path / "r.sock"
    options = ["--port", "0", "--unixsocket", str(place), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    until(place.exists)
    yield f"redis+socket://{place}"
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.fixture
def open_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(broker_url: str = "", **settings: Any) -> House:
        houses.append(House(tmp_path / "data", broker_url, **settings))
        return houses[-1]

    yield build
    for house in houses:
        house.close()
