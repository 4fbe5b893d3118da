"""A real API process without workers, on a free port and a folder of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]


class API:
    def __init__(self, port: int, process: subprocess.Popen[bytes], data: Path) -> None:
        self.port, self.process, self.data = port, process, data
        self.url = f"http://127.0.0.1:{port}"

    def raw(self, *pieces: bytes, wait_s: float = 20) -> bytes:
        """What the server sends back to these bytes, sent one after the other."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except (ConnectionResetError, BrokenPipeError):  # it has answered and closed
                    break
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < length(answer):
                more = connection.recv(65536)
                if not more:
                    break
                answer += more
            return answer


def length(answer: bytes) -> int:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)


@contextmanager
def served(folder: Path, **environment: str) -> Iterator[API]:
    """An API on a data folder below this one, ready, with these settings."""
    data = folder / "data"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {**os.environ, "TEMPER_DATA": str(data), "OMP_NUM_THREADS": "1", **environment}
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "service.app", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=told, stderr=log)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5).raise_for_status()
                break
            except httpx2.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield API(port, process, data)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    with served(tmp_path_factory.mktemp("api"), TEMPER_UPLOAD_BYTES=str(400 * 2**20)) as api:
        yield api


@pytest.fixture(scope="session")
def http(api: API) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, timeout=60) as client:
        yield client
