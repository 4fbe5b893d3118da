"""The whole service as separate processes on PostgreSQL and Redis, as several hosts would run it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx2

from temper.embedded.launch import Launch
from tests.patience import PATIENCE_S, until
from tests.system.servers import Postgres, Redis, free_port

PYTHON = (sys.executable, "-P", "-m", "temper")
ROOT = Path(__file__).parents[2]


class Separate:
    """`temper api`, some `temper worker`, a PostgreSQL and a Redis; whoever kills one of them starts it again."""

    def __init__(self, folder: Path, *, workers: int = 2, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.postgres = Postgres()
        self.redis = Redis(folder / "redis")
        self._given = dict(environment or {})
        self.api: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._wanted = workers
        self._lifeline, self._own_end = os.pipe()

    @property
    def environment(self) -> dict[str, str]:
        """What each of its processes is told."""
        told = {"TEMPER_DATA": str(self.data), "TEMPER_DATABASE_URL": self.postgres.url, "TEMPER_BROKER_URL": self.redis.url}
        return {**os.environ, "TEMPER_AUTH": "off", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **told, **self._given}

    @property
    def roots(self) -> list[int]:
        """The processes that it started."""
        return [process.pid for process in (self.api, *self.workers, self.redis.process) if process is not None]

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            self.redis.start()
            self.start_api()
            for _ in range(self._wanted):
                self.start_worker()
            self.await_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_api(self) -> None:
        """Start the API, and not wait for it."""
        self.api = self._start("api", "--port", str(self.port))

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker, and not wait for it."""
        self.workers.append(self._start("worker"))
        return self.workers[-1]

    def tend(self) -> None:
        """Start again what has died; the servers stay as they are."""
        if self.api is None or self.api.poll() is not None:
            self.start_api()
        living = [worker for worker in self.workers if worker.poll() is None]
        self.workers = living
        while len(self.workers) < self._wanted:
            self.start_worker()

    def await_ready(self, within_s: float = PATIENCE_S) -> None:
        """Return once the API answers that it is ready."""
        try:
            until(self._ready, within_s)
        except AssertionError:
            raise AssertionError(f"not ready within {within_s} s: {self.said()}") from None

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def said(self) -> str:
        """The last words of all processes."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.folder.glob("*.log"))

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**self.environment, "TEMPER_LIFELINE_FD": str(self._lifeline)}
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [*PYTHON, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=ROOT, pass_fds=(self._lifeline,),
                start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """End everything, the servers last."""
        processes = [process for process in (self.api, *self.workers) if process is not None]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.redis.close()
        self.postgres.close()
        os.close(self._own_end)
        os.close(self._lifeline)


Stack = Launch | Separate


def visitor(stack: Stack, timeout: float = 60) -> httpx2.Client:
    """A client of the stack."""
    return httpx2.Client(base_url=stack.url, timeout=timeout)


def roots(stack: Stack) -> list[int]:
    """The processes that all others of the stack are below."""
    if isinstance(stack, Separate):
        return stack.roots
    assert stack.process is not None
    return [stack.process.pid]
