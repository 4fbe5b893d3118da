"""The parent of an embedded service: starts broker, API and worker, starts again what dies, and ends them all."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

from temper.embedded.address import free_port
from temper.embedded.broker import choose
from temper.embedded.child import Child, Program, last_lines
from temper.embedded.folder import DataFolder
from temper.errors import CannotStart

STEADY_S = 5.0
# `-P`: a folder named `service` where the command is typed must not shadow ours.
PYTHON = (sys.executable, "-P", "-m")


class Options(NamedTuple):
    """What `temper up` was asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path = Path(".temper")
    workers: int = 1


class Stack:
    """The children of one embedded service; made once the data folder is taken."""

    def __init__(self, options: Options, folder: DataFolder, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.broker = choose(folder.path / "broker", environment.get("TEMPER_BROKER_URL", ""))
        self._host = options.host
        self.port = free_port(options.host, options.port)
        self._environment = {
            **environment,
            "TEMPER_DATA": str(folder.path),
            "TEMPER_BROKER_URL": self.broker.url,
            "TEMPER_SLOTS": str(options.workers),
            "PYTHONUNBUFFERED": "1",
        }
        # All children hold the reading end; it closes when this process is gone, in whatever way.
        self._lifeline, self._own_end = os.pipe()
        self._servers: list[Child] = []
        self._children: list[Child] = []

    @property
    def url(self) -> str:
        """Where the API listens."""
        return f"http://{self._host if ':' not in self._host else f'[{self._host}]'}:{self.port}"

    @property
    def ready(self) -> bool:
        """Whether the API has answered that it is ready."""
        return bool(self._children) and self._children[0].ready

    def start(self) -> None:
        """Brings the tables up to date and starts the children; raises `CannotStart`."""
        if self.broker.command:
            self.broker.clear()
            command = ("service.lifeline", *self.broker.command)
            self._servers.append(self._child("broker", command, lambda child: self.broker.answers(), grace_s=4))
        address = ("--host", self._host, "--port", str(self.port))
        self._children.append(self._child("API", ("service.app", *address), lambda child: self._answers(), grace_s=5))
        self.tend()
        # The API takes seconds to load what it needs; meanwhile the tables are made, which a worker must find.
        self._migrate()
        # A worker has no address to ask: one that lived a while is taken as ready.
        self._children.append(self._child("worker", ("workers.app",), lambda child: child.age_s > STEADY_S, grace_s=12))

    def tend(self) -> None:
        """Looks after every child once; raises `CannotStart` when one cannot be kept alive."""
        for child in (*self._servers, *self._children):
            child.tend()

    def stop(self) -> None:
        """Ends the children, the broker last, and kills what does not end within its grace; an interrupt kills at once."""
        try:
            for group in (self._children, self._servers):
                for child in group:
                    child.terminate()
                for child in group:
                    child.wait()
        except KeyboardInterrupt:
            for child in (*self._children, *self._servers):
                child.kill()
        finally:
            os.close(self._own_end)
            os.close(self._lifeline)

    def _child(self, name: str, command: tuple[str, ...], ready: Callable[[Child], bool], *, grace_s: float) -> Child:
        folder = self.folder.path / "broker" if name == "broker" else self.folder.path
        log = self.folder.logs / f"{name.lower()}.log"
        return Child(Program(name, (*PYTHON, *command), folder, log, self._environment, grace_s), ready, self._lifeline)

    def _migrate(self) -> None:
        """Runs the migrations in a process of their own: this one has no database driver."""
        log = self.folder.logs / "migrations.log"
        with log.open("wb") as stream:
            command = (*PYTHON, "temper", "db", "upgrade")
            status = subprocess.run(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False)
        if status.returncode != 0:
            raise CannotStart(f"The database could not be brought up to date ({log}):\n{last_lines(log)}")

    def _answers(self) -> bool:
        connection = HTTPConnection(self._host, self.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
