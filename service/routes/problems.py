"""Errors as RFC 9457 problems: small, escaped, and without anything of ours inside."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.errors import Flaw, TemperError
from service.flaws import CODES, MOST, cut, pointer

MEDIA_TYPE = "application/problem+json"
MOST_BYTES = 8192
PROTOCOL_V2 = "/v2"
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class NotAcceptable(TemperError):
    """The caller takes none of the media types that there are."""

    status, slug, title = 406, "not-acceptable", "Not acceptable"


class RequestTimeout(TemperError):
    """The body stopped coming."""

    status, slug, title = 408, "request-timeout", "Request timeout"


class PreconditionFailed(TemperError):
    """The file is not the one that the caller takes it for."""

    status, slug, title = 412, "precondition-failed", "Precondition failed"


class BadRange(TemperError):
    """The file has no such bytes; `size` is how many it has."""

    status, slug, title = 416, "bad-range", "Bad range"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has the bytes 0 to {size - 1}.")
        self.size = size


class URITooLong(TemperError):
    """The address is longer than 8 KB."""

    status, slug, title = 414, "uri-too-long", "URI too long"


class HeaderTooLarge(TemperError):
    """The header fields are larger than 16 KB."""

    status, slug, title = 431, "header-too-large", "Header too large"


def render(error: TemperError, *, path: str, request_id: str) -> Response:
    """The answer for an error; under /v2 as the Open Inference Protocol has it."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        headers["Connection"] = "close"
    if isinstance(error, BadRange):
        headers["Content-Range"] = f"bytes */{error.size}"
    problem = {
        "type": f"/problems/{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": cut(error.detail, 500),
        "instance": cut(path, 200),
        "request_id": request_id,
    }
    return answer(problem, error.flaws, path=path, headers=headers)


def answer(problem: dict[str, Any], flaws: Sequence[Flaw], *, path: str, headers: Mapping[str, str]) -> Response:
    """A problem as a response of at most 8 KB: as many errors as fit, at most 20."""
    if path == PROTOCOL_V2 or path.startswith(PROTOCOL_V2 + "/"):
        said = problem["detail"] or problem["title"]
        return Response(_encoded({"error": said}), status_code=problem["status"], headers=dict(headers), media_type="application/json")
    shown = [{"pointer": flaw.pointer[:300], "code": flaw.code, "message": cut(flaw.message, 300)} for flaw in flaws[:MOST]]
    body = _encoded({**problem, "errors": shown} if shown else problem)
    while len(body) > MOST_BYTES and shown:
        shown.pop()
        body = _encoded({**problem, "errors": shown})
    return Response(body, status_code=problem["status"], headers=dict(headers), media_type=MEDIA_TYPE)


def internal(*, path: str, request_id: str) -> Response:
    """The answer to a fault of ours, which says nothing of it."""
    return render(TemperError("The request failed for a reason of ours, which was logged."), path=path, request_id=request_id)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(TemperError, _temper_error)
    app.add_exception_handler(RequestValidationError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


async def _temper_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, TemperError):
        raise error
    return render(error, path=request.url.path, request_id=request.state.request_id)


async def _request_error(request: Request, error: Exception) -> Response:
    """Query parameters that do not fit, each with its pointer `/query/<name>`."""
    if not isinstance(error, RequestValidationError):
        raise error
    flaws = []
    for details in error.errors()[:MOST]:
        kind = details["type"]
        code = CODES.get(kind, "wrong-type" if kind.endswith(("_type", "_parsing")) else "value-out-of-range")
        message = "there is no such parameter" if code == "unknown-field" else details["msg"]
        flaws.append(Flaw(pointer(*details["loc"]), code, message))
    problem = {
        "type": "/problems/validation-error",
        "title": "Validation error",
        "status": 422,
        "detail": flaws[0].message if len(flaws) == 1 else f"{len(flaws)} errors",
        "instance": cut(request.url.path, 200),
        "request_id": request.state.request_id,
    }
    return answer(problem, flaws, path=request.url.path, headers={})


async def _http_error(request: Request, error: Exception) -> Response:
    """What routing refuses: an unknown address, a method that a resource does not have."""
    if not isinstance(error, HTTPException):
        raise error
    title = HTTPStatus(error.status_code).phrase.capitalize()
    problem = {
        "type": "/problems/" + title.lower().replace(" ", "-"),
        "title": title,
        "status": error.status_code,
        "detail": {404: "There is nothing at this address.", 405: "This resource has no such method."}.get(error.status_code, title),
        "instance": cut(request.url.path, 200),
        "request_id": request.state.request_id,
    }
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return answer(problem, (), path=request.url.path, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods that the address has, in whichever routes: routing itself names only the first route's."""
    found = {
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in request.app.routes)
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))
