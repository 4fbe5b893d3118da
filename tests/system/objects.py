"""Object stores of the tests' own: moto's server as a process, and a server that refuses what it is told to."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from boto3.session import Session

from tests.system.servers import Server, free_port

BUCKET = "temper-tests"


def environment(port: int) -> dict[str, str]:
    """What a program is told to find the store on that port, in boto3's own variables."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}


class Objects(Server):
    """An S3 service with one bucket, kept in memory: started again, it is empty."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        super().__init__([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log=folder / "objects.log")
        endpoint = f"http://127.0.0.1:{port}"
        self.client: Any = Session("test", "test", region_name="us-east-1").client("s3", endpoint_url=endpoint)

    @property
    def environment(self) -> dict[str, str]:
        """What a program is told to find it."""
        return environment(self.port)

    def answers(self) -> bool:
        try:
            self.client.create_bucket(Bucket=BUCKET)
        except Exception:  # it does not listen yet
            return False
        return True

    def names(self, prefix: str = "") -> list[str]:
        """The names of the objects that begin so."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]


@contextmanager
def refusing(status: int, code: str, *, after: int = 0) -> Iterator[int]:
    """The port of a server that takes so many objects, knows none of them, and refuses all further ones."""
    left = [after]

    class Refusal(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            left[0] -= 1
            self._answer(*((200, "") if left[0] >= 0 else (status, code)))

        def do_GET(self) -> None:
            self._answer(*((404, "NoSuchKey") if after else (status, code)))

        def do_HEAD(self) -> None:
            self._answer(status, "")

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int, code: str) -> None:
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
