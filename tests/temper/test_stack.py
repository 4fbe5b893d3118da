"""`temper up` as a whole: real children, real signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from temper.embedded.folder import running
from temper.embedded.launch import Launch
from temper.errors import CannotStart
from tests.patience import until

SPEC = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}, "epochs": 2}


def of_service(data: Path) -> dict[int, str]:
    """The processes whose environment or command names this data folder (Redis writes over both), with their commands."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"TEMPER_DATA={data}\0".encode() in (process / "environ").read_bytes() or f"unixsocket:{data}/" in command:
                found[int(process.name)] = command
        except (OSError, ValueError):
            continue
    return found


def finished(url: str, job: str) -> bool:
    return bool(httpx2.get(f"{url}/api/v1/jobs/{job}").json()["done"])


@pytest.mark.parametrize("path", [os.environ["PATH"], ""], ids=["private server", "broker of files"])
def test_it_trains_and_an_interrupt_leaves_nothing_behind(tmp_path: Path, path: str) -> None:
    with Launch(tmp_path / "data", workers=1, environment={"PATH": path}) as service:
        job = httpx2.post(f"{service.url}/api/v1/jobs", json=SPEC).json()["id"]
        until(lambda: finished(service.url, job))
        assert httpx2.get(f"{service.url}/api/v1/jobs/{job}").json()["state"] == "succeeded"
        assert len(of_service(service.data)) >= 2
        with pytest.raises(CannotStart, match=f"Another service has the data folder .*{service.url}"), Launch(service.data):
            pass
        assert service.process is not None
        started = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) == 0
        assert time.monotonic() - started < 30
        assert of_service(service.data) == {}
        assert running(service.data) is None


def test_what_dies_is_started_again_and_nothing_survives_the_parent(tmp_path: Path) -> None:
    with Launch(tmp_path / "data", workers=1) as service:
        for what in ("service.app", "workers.app", "redis-server"):
            victims = [pid for pid, command in of_service(service.data).items() if what in command]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
        job = ""

        def accepted() -> bool:
            nonlocal job
            try:
                answer = httpx2.post(f"{service.url}/api/v1/jobs", json=SPEC)
            except httpx2.TransportError:
                return False
            job = answer.json().get("id", "")
            return answer.status_code == 202

        until(accepted)
        until(lambda: finished(service.url, job))
        assert service.process is not None
        service.process.kill()
        until(lambda: of_service(service.data) == {})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_server_ends_with_what_watches_it(tmp_path: Path) -> None:
    """kill -9 of the process between, which can tell nobody any more."""
    mark = tmp_path / "pid"
    program = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(900)"
    watcher = subprocess.Popen([sys.executable, "-m", "service.lifeline", sys.executable, "-c", program])
    until(lambda: mark.exists() and mark.read_text() != "")
    watcher.kill()
    watcher.wait()
    until(lambda: not Path(f"/proc/{mark.read_text()}").exists())


def test_a_service_that_cannot_be_kept_alive_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "temper", "up", "--data", str(tmp_path), "--port", "0"]
    environment = {**os.environ, "TEMPER_LEASE_S": "-1"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment)
    assert answer.returncode == 1
    assert "lease_s" in answer.stderr
    assert of_service(tmp_path) == {}
