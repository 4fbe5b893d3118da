"""One client's connection, below the application: bounded in time and size, and what is not HTTP is answered with a problem."""

import asyncio
import resource
from collections import deque
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service import logs
from service.errors import BadRequest, Busy, TemperError
from service.routes import problems
from service.routes.problems import HeaderTooLarge, RequestTimeout, URITooLong
from service.routes.reading import IDLE_S
from service.routes.requests import MOST_HEADER_BYTES, MOST_URI_BYTES

READ_S = 30.0
"""How long a client may take nothing of an answer."""
MOST_HEAD_BYTES = 64 * 1024
"""Of a request that is not whole yet, with what stands between its fields."""
SPARE = 64
"""Descriptors for files and the database, and connections above the bound that are still told so."""

log = logs.logger("temper.connections")


def affordable(most: int) -> int:
    """How many connections this process may hold: `most`, or what its descriptors allow once their bound is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + 2 * SPARE
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(most, soft - 2 * SPARE))


async def refuse_busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a connection too many."""
    request_id = uuid4().hex
    response = problems.render(Busy("Too many connections are open."), path=scope["path"], request_id=request_id)
    response.headers.update({"Connection": "close", "X-Request-ID": request_id})
    await response(scope, receive, send)


class Connection(HttpToolsProtocol):
    """A connection that a slow client cannot hold: each request's head has 10 seconds, and so has what an answered one still sends.

    `limit_concurrency` bounds the connections of the process; those that were there before a crowd are served on.
    """

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self.url, self.headers = b"", []
        # Requests that came and are not answered, the oldest first.
        self._cycles: deque[RequestResponseCycle] = deque()
        self._in_head, self._head_bytes, self._broken = True, 0, False
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came; far too many are cut off at once."""
        super().connection_made(transport)
        above = len(self.connections) - (self._most or len(self.connections))
        if above > SPARE:
            transport.abort()
        elif above > 0:
            self.app = refuse_busy
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or was sent away; none of its requests has anyone to answer to."""
        self._disarm()
        if self._stall is not None:
            self._stall.cancel()
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; a head that grows without end is refused before it is whole."""
        if self._broken:
            return
        if self._in_head:
            self._head_bytes += len(data)
            self._arm()
        super().data_received(data)
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES and not self._broken:
            self._refuse(self._too_long() or HeaderTooLarge(f"The header is larger than {MOST_HEADER_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        """Its head is whole: from here on its body is the application's to wait for."""
        self._disarm()
        super().on_headers_complete()
        self._in_head, self._head_bytes = False, 0
        self._cycles.append(self.cycle)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._disarm()
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered; what is left of its body is read for a while, so that the client gets to reading the answer."""
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        super().on_response_complete()
        if not self._in_head:
            self._arm()
        self._watch_reader()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        self._refuse(self._too_long() or BadRequest(msg))

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to."""
        super().pause_writing()
        self._watch_reader()

    def _too_long(self) -> URITooLong | None:
        return URITooLong(f"The address is longer than {MOST_URI_BYTES} bytes.") if len(self.url) > MOST_URI_BYTES else None

    def _refuse(self, error: TemperError) -> None:
        """Answer and close. Requests that the application has read whole are answered first; one that it reads is taken from it."""
        self._broken = True
        self._disarm()
        waiting = [cycle for cycle in self._cycles if not cycle.response_complete]
        if waiting:
            last = waiting[-1]
            if len(waiting) > 1 or last.response_started or not (last.more_body or last.body):
                last.keep_alive = False
                return
            last.disconnected = True
            last.message_event.set()
        request_id = uuid4().hex
        path = unquote(self.url.partition(b"?")[0].decode("ascii", "replace"))
        response = problems.render(error, path=path, request_id=request_id)
        log.info("request refused", request_id=request_id, status=error.status, problem=error.slug)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"x-request-id", request_id.encode())]
        self.transport.write(_head(response.status_code, headers))
        self.transport.write(bytes(response.body))
        self.transport.close()

    def _arm(self) -> None:
        if self._deadline is None and not self._broken:
            self._deadline = self.loop.call_later(IDLE_S, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        """The time is up; while an earlier request is served, the next one may wait."""
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._arm()
        elif self._in_head and self._head_bytes:
            self._refuse(RequestTimeout(f"The request's head was not whole within {IDLE_S:.0f} seconds."))
        else:
            self.transport.close()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left and self._stall is None:
            self._stall = self.loop.call_later(READ_S, self._judge_reader, left)

    def _judge_reader(self, left: int) -> None:
        """Cut off a client that has taken nothing since."""
        self._stall = None
        if self.transport.get_write_buffer_size() >= left:
            self.transport.abort()
        else:
            self._watch_reader()


def _head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % (name, value) for name, value in headers if name != b"connection"]
    return b"\r\n".join([*lines, b"connection: close", b"", b""])
