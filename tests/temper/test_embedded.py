"""The parts of `temper up`, with real processes, sockets and locks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from temper.embedded.address import check_host, free_port
from temper.embedded.broker import Broker, choose
from temper.embedded.child import Child, Program
from temper.embedded.folder import DataFolder, running
from temper.errors import CannotStart
from tests.patience import until

REDIS = shutil.which("redis-server")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def lifeline() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def program(code: str, folder: Path, grace_s: float = 5) -> Program:
    return Program("probe", (sys.executable, "-c", code), folder, folder / "probe.log", os.environ, grace_s)


def test_only_loopback_addresses() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_host(host)
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        with pytest.raises(CannotStart, match="loopback"):
            check_host(host)


def test_port_in_use_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"Port {port} .*--port 0"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0


def test_a_folder_has_one_service_and_is_free_after_it(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path), DataFolder(tmp_path)
    first.take()
    assert running(tmp_path) is None
    first.announce("http://127.0.0.1:1")
    assert running(tmp_path) == ("http://127.0.0.1:1", os.getpid())
    with pytest.raises(CannotStart, match=r"http://127\.0\.0\.1:1"):
        second.take()
    first.release()
    assert running(tmp_path) is None
    second.take()
    second.release()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot be written"):
        DataFolder(tmp_path / "file" / "data").take()


def test_a_given_broker_is_taken(tmp_path: Path) -> None:
    assert choose(tmp_path, "redis://elsewhere") == Broker("redis://elsewhere", "broker given")


def test_without_a_server_the_broker_is_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert choose(tmp_path, "").url == f"filesystem://{tmp_path}"


@pytest.mark.skipif(REDIS is None, reason="needs redis-server")
def test_the_private_server_is_private_and_ends_with_its_parent(tmp_path: Path, lifeline: int) -> None:
    folder = tmp_path / ("long" * 30)
    broker = choose(folder, "")
    assert broker.socket is not None
    assert len(bytes(broker.socket)) <= 100
    assert choose(folder, "") == broker
    wrapped = (sys.executable, "-m", "service.lifeline", *broker.command)
    child = Child(Program("broker", wrapped, folder, tmp_path / "log", os.environ, 5), lambda _: broker.answers(), lifeline)
    until(lambda: child.tend() or child.ready)
    assert broker.socket.stat().st_mode & 0o777 == 0o600
    child.terminate()
    child.wait()
    assert not broker.answers()
    shutil.rmtree(broker.socket.parent)


@pytest.mark.skipif(REDIS is None, reason="needs redis-server")
def test_a_server_left_behind_is_ended_by_the_next_start(tmp_path: Path) -> None:
    broker = choose(tmp_path, "")
    orphan = subprocess.Popen(broker.command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    until(broker.answers)
    broker.clear()
    assert orphan.wait(60) == 0
    assert not broker.answers()


def test_a_child_is_started_again_and_given_up_after_five_deaths(tmp_path: Path, lifeline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.embedded.child.FIRST_PAUSE_S", 0.01)
    child = Child(program("import sys; open('count', 'a').write('.'); sys.exit('no such table')", tmp_path), lambda _: False, lifeline)
    with pytest.raises(CannotStart, match=r"(?s)status 1, 5 times.*no such table"):
        until(lambda: child.tend() or False)
    assert (tmp_path / "count").read_text() == "....."


def test_deaths_after_readiness_are_not_counted_together(tmp_path: Path, lifeline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.embedded.child.FIRST_PAUSE_S", 0.01)
    code = "import time; open('count', 'a').write('.'); time.sleep(0.1)"
    child = Child(program(code, tmp_path), lambda _: True, lifeline)
    count = tmp_path / "count"
    until(lambda: child.tend() or (count.exists() and len(count.read_text()) > 6))
    child.kill()


def test_a_child_that_does_not_end_is_killed(tmp_path: Path, lifeline: int) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'w'); time.sleep(900)"
    child = Child(program(code, tmp_path, grace_s=0.2), lambda _: (tmp_path / "up").exists(), lifeline)
    until(lambda: child.tend() or child.ready)
    child.terminate()
    started = time.monotonic()
    child.wait()
    assert time.monotonic() - started < 10


PARENT = """
import os, subprocess, sys, time
reading, writing = os.pipe()
command = [sys.executable, "-m", "service.lifeline", sys.executable, "-c", "import time; time.sleep(900)"]
child = subprocess.Popen(command, pass_fds=(reading,), env={**os.environ, "TEMPER_LIFELINE_FD": str(reading)}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(900)
"""


def test_children_and_what_they_run_end_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        wrapper = int(parent.stdout.readline())
        until(lambda: bool(Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text().split()))
        inner = int(Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text())
        os.kill(parent.pid, signal.SIGKILL)
        until(lambda: not alive(wrapper) and not alive(inner))
