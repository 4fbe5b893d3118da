"""Around every request, as plain ASGI: its id, its bounds, its log line and its count; no fault leaves as a broken connection."""

import re
import time
from uuid import uuid4

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, tracing
from service.errors import BadRequest, TemperError
from service.routes import problems

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
MOST_HEADER_BYTES = 16 * 1024
MOST_URI_BYTES = 8 * 1024
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

log = logs.logger("temper.requests")


class Requests:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        self.count = Counter("temper_requests", "Requests answered.", ("method", "route", "status"), registry=registry)
        labels = ("method", "route")
        self.seconds = Histogram("temper_request_seconds", "Time to the last byte.", labels, registry=registry, buckets=BUCKETS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A HEAD is a GET whose body is left out: routes know only GET.
        method, scope = scope["method"], {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        exchange = _Exchange(scope, send, bodiless=method == "HEAD")
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id, **tracing.told(exchange.traceparent)):
            try:
                exchange.check_bounds()
                await self.app(scope, receive, exchange.send)
            except ClientDisconnect:
                exchange.status = 499
            except TemperError as error:
                await exchange.answer(error, receive)
            except Exception:
                log.exception("request failed", method=method, path=scope["path"])
                await exchange.answer(None, receive)
            self._tell(method, scope, exchange)

    def _tell(self, method: str, scope: Scope, exchange: "_Exchange") -> None:
        """Log and count the request; only by its route, for addresses are without number."""
        took = time.perf_counter() - exchange.began
        route = getattr(scope.get("route"), "path", "none")
        method = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"
        self.count.labels(method, route, exchange.status).inc()
        self.seconds.labels(method, route).observe(took)
        log.info("request", method=method, path=scope["path"], status=exchange.status, seconds=round(took, 6))


class _Exchange:
    """One request and its answer as far as it went."""

    def __init__(self, scope: Scope, send: Send, *, bodiless: bool) -> None:
        self.scope, self._send, self._bodiless = scope, send, bodiless
        self.began, self.status, self.started = time.perf_counter(), 0, False
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        self.traceparent = tracing.accepted(Headers(scope=scope).getlist("traceparent"))
        scope.setdefault("state", {}).update(request_id=self.request_id, traceparent=self.traceparent)

    def check_bounds(self) -> None:
        """Raises URITooLong, HeaderTooLarge, and BadRequest for what RFC 9112 has a server refuse."""
        if len(self.scope.get("raw_path") or b"") + len(self.scope["query_string"]) > MOST_URI_BYTES:
            raise problems.URITooLong(f"The address is longer than {MOST_URI_BYTES} bytes.")
        if sum(len(name) + len(value) for name, value in self.scope["headers"]) > MOST_HEADER_BYTES:
            raise problems.HeaderTooLarge(f"The header is larger than {MOST_HEADER_BYTES} bytes.")
        _check_framing(self.scope["http_version"], Headers(scope=self.scope))

    async def send(self, message: Message) -> None:
        """Pass a message on, with the request's id in the header; to a HEAD, the header alone, at once even where a stream begins."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            headers.setdefault("X-Content-Type-Options", "nosniff")
        elif self._bodiless:
            return
        await self._send(message)
        if self._bodiless:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, error: TemperError | None, receive: Receive) -> None:
        """Answer with a problem, unless an answer has begun: then its connection can only be cut."""
        if self.started:
            raise ConnectionAbortedError("an answer broke off")
        path = self.scope["path"]
        told = {"path": path, "request_id": self.request_id}
        response = problems.internal(**told) if error is None else problems.render(error, **told)
        await response(self.scope, receive, self.send)


def _check_framing(version: str, headers: Headers) -> None:
    """Raises BadRequest for a head that leaves open to whom the request goes, or where its body ends."""
    if version not in ("1.0", "1.1"):
        raise BadRequest("HTTP/1.1 and HTTP/1.0 are spoken here.")
    if len(headers.getlist("host")) != 1 and version == "1.1":
        raise BadRequest("A request names its Host once.")
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise BadRequest("chunked is the only transfer coding that is read here.")
    # The parser gives no body to a request that asks for another protocol.
    if "upgrade" in headers and ("transfer-encoding" in headers or headers.get("content-length", "0") != "0"):
        raise BadRequest("A request with a body cannot ask for another protocol.")
