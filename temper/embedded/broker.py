"""Which broker rings the workers: the one given, a private Redis or Valkey, or plain files."""

import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

# A socket's path has at most 107 bytes on Linux and 103 on macOS.
LONGEST_SOCKET = 100


class Broker(NamedTuple):
    """A Celery broker's URL, how people call it, and the server to start for it, if any."""

    url: str
    title: str
    command: tuple[str, ...] = ()
    socket: Path | None = None

    def answers(self) -> bool:
        """Whether the private server accepts connections; True for a broker that is not ours to start."""
        if self.socket is None:
            return True
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            return connection.connect_ex(str(self.socket)) == 0

    def clear(self) -> None:
        """Ends a private server that a killed parent left behind: two must not write to one folder."""
        if self.socket is None or not self.answers():
            return
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(b"SHUTDOWN\r\n")
            connection.recv(1)
        deadline = time.monotonic() + 5
        while self.answers() and time.monotonic() < deadline:
            time.sleep(0.05)


def choose(folder: Path, url: str) -> Broker:
    """The broker of an embedded service: `url` if given, else a private server in `folder`, else files in it."""
    if url:
        return Broker(url, "broker given")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for program, title in (("redis-server", "private redis"), ("valkey-server", "private valkey")):
        server = shutil.which(program)
        if server is not None:
            place = _socket(folder)
            return Broker(f"redis+socket://{quote(str(place))}", title, _command(server, place), place)
    return Broker(f"filesystem://{folder}", "broker of files")


def _command(server: str, place: Path) -> tuple[str, ...]:
    """A server that no network reaches, that keeps what it was told and refuses rather than forgets; it writes to its folder."""
    options = {
        "--port": "0",
        "--unixsocket": str(place),
        "--unixsocketperm": "600",
        "--appendonly": "yes",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--daemonize": "no",
    }
    return (server, *(word for option in options.items() for word in option))


def _socket(folder: Path) -> Path:
    """The path of the socket: in the folder, or in a temporary folder, kept for the next start, where that is too long."""
    place = folder / "redis.sock"
    if len(bytes(place)) <= LONGEST_SOCKET:
        return place
    note = folder / "socket"
    kept = Path(note.read_text()) if note.exists() else None
    if kept is None or not kept.parent.is_dir():
        kept = Path(tempfile.mkdtemp(prefix="temper-")) / "redis.sock"
        note.write_text(str(kept))
    return kept
