"""An API process alone, without workers: what is queued stays queued."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2

from tests.patience import until
from tests.system.servers import free_port

ROOT = Path(__file__).parents[2]


class Alone(NamedTuple):
    """Where it listens, its data folder, its log and its process."""

    url: str
    data: Path
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def api(folder: Path, **environment: str) -> Iterator[Alone]:
    """An API on the folder's `data`, ready, with these settings."""
    port, data, log = free_port(), folder / "data", folder / "api.log"
    told = {**os.environ, "TEMPER_DATA": str(data), "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as talk:
        command = [sys.executable, "-m", "service.app", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=told, stderr=talk)
    alone = Alone(f"http://127.0.0.1:{port}", data, log, process)
    try:
        until(lambda: _ready(alone))
        yield alone
    finally:
        process.terminate()
        process.wait(20)


def _ready(alone: Alone) -> bool:
    assert alone.process.poll() is None, alone.log.read_text()[-3000:]
    try:
        return httpx2.get(f"{alone.url}/readyz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False
