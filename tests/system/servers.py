"""A PostgreSQL and a Redis of the tests' own, as processes that may be killed, paused and started again."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.patience import PATIENCE_S

PLACES = "/usr/lib/postgresql/*/bin"


class Absent(Exception):
    """A server's program is not on this machine."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Where a program of PostgreSQL lies; raises Absent."""
    found = shutil.which(name) or next((str(place / name) for place in _newest() if (place / name).exists()), None)
    if found is None:
        raise Absent(f"no {name} on the path nor in {PLACES}")
    return found


def _newest() -> Iterator[Path]:
    yield from sorted(Path("/").glob(PLACES[1:]), key=lambda path: int(path.parent.name), reverse=True)


class Server:
    """A process on a port of its own that is started again on the same files."""

    def __init__(self, command: list[str], port: int, *, user: str | None = None, log: Path) -> None:
        self.command, self.port, self.user, self.log = command, port, user, log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and return once it answers; a process that a kill left behind may hold its files for a moment."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(self.command, stdout=log, stderr=log, user=self.user, cwd="/", start_new_session=True)
            while self.process.poll() is None:
                if self.answers():
                    return
                assert time.monotonic() < ends, self.log.read_text()[-2000:]
                time.sleep(0.02)
            assert time.monotonic() < ends, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it takes requests."""
        raise NotImplementedError

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send the signal and wait for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(30)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It hangs for as long as the block runs."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


class Postgres(Server):
    """A cluster in a temporary folder; root runs it as `postgres`, which must not be root."""

    def __init__(self, *, settings: tuple[str, ...] = ()) -> None:
        initdb, postgres = program("initdb"), program("postgres")
        user = "postgres" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="temper-postgres-"))
        if user is not None:
            try:
                os.chown(self.folder, pwd.getpwnam(user).pw_uid, -1)
            except KeyError:
                raise Absent("no user postgres, whom root could run PostgreSQL as") from None
        data = str(self.folder / "data")
        made = [initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, user=user, cwd="/")
        port = free_port()
        options = ["-p", str(port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        options += [word for setting in settings for word in ("-c", setting)]
        super().__init__([postgres, "-D", data, *options], port, user=user, log=self.folder.with_suffix(".log"))

    @property
    def url(self) -> str:
        """Its one database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def close(self) -> None:
        """End it and remove its files."""
        self.end(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.log.unlink(missing_ok=True)


class Redis(Server):
    """A Redis that keeps what it was told in an append-only file, as a production one does."""

    def __init__(self, folder: Path, *options: str) -> None:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        if found is None:
            raise Absent("no redis-server nor valkey-server on the path")
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", str(folder)]
        super().__init__([found, *words, *options], port, log=folder / "redis.log")

    @property
    def url(self) -> str:
        """Its address as a broker."""
        return f"redis://127.0.0.1:{self.port}/0"

    def say(self, *words: str) -> bytes:
        """What it answers to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096)

    def answers(self) -> bool:
        try:
            return self.say("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def close(self) -> None:
        """End it; its folder belongs to whoever gave it."""
        self.end()
