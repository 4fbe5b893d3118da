"""Bodies: bounded, not too slow, and JSON in the strict sense."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from service import json_text
from service.errors import BadRequest, TooLarge, UnsupportedMediaType
from service.routes.problems import RequestTimeout

IDLE_S = 10.0
INLINE_BYTES = 1 << 16


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes; raises TooLarge by Content-Length before a byte is read, else in mid-stream, and RequestTimeout."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise BadRequest("Content-Length is not a number.")
    if int(declared) > limit:
        raise TooLarge(f"The body is larger than {limit} bytes.")
    seen, stream = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                chunk = await anext(stream, b"")
        except TimeoutError as error:
            raise RequestTimeout(f"No byte came for {IDLE_S:.0f} seconds.") from error
        if not chunk:
            return
        seen += len(chunk)
        if seen > limit:
            raise TooLarge(f"The body is larger than {limit} bytes.")
        yield chunk


async def json_body(request: Request, limit: int) -> Any:
    """The body's JSON value; raises UnsupportedMediaType, TooLarge and what `json_text.read` raises."""
    _check_media_type(request)
    body = b"".join([chunk async for chunk in chunks(request, limit)])
    if len(body) <= INLINE_BYTES:
        return json_text.read(body)
    return await run_in_threadpool(json_text.read, body)


def _check_media_type(request: Request) -> None:
    media_type, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if media_type != "application/json":
        raise UnsupportedMediaType("The body has to be sent as application/json.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip('" ') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("JSON is UTF-8.")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("The body has to be sent without a content encoding.")
