"""A stored file as its caller asks for it: only if it is, or is no longer, the one that they know; the whole or a piece (RFC 9110)."""

import re
from collections.abc import Mapping

from fastapi import Request
from fastapi.responses import Response

from service.routes.problems import BadRange, PreconditionFailed

RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
TAG = re.compile(r'(?:W/)?("[^"]*")')


def respond(request: Request, content: bytes, etag: str, *, media_type: str, headers: Mapping[str, str]) -> Response:
    """200, 206 or 304 for content whose entity tag is `etag`; raises PreconditionFailed and BadRange.

    A range of another unit than bytes, and several ranges at once, are answered with the whole.
    """
    told = {**headers, "ETag": etag, "Accept-Ranges": "bytes"}
    asked = request.headers
    if "if-match" in asked and not _names(asked["if-match"], etag):
        raise PreconditionFailed("The file is not the one that If-Match names.")
    if "if-none-match" in asked and _names(asked["if-none-match"], etag):
        return Response(status_code=304, headers=told)
    piece = asked.get("range", "").replace(" ", "").lower()
    if not piece.startswith("bytes=") or "," in piece or asked.get("if-range", etag) != etag:
        return Response(content, media_type=media_type, headers=told)
    first, last = _bounds(piece, len(content))
    told["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Response(content[first : last + 1], status_code=206, media_type=media_type, headers=told)


def _names(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in TAG.findall(header)


def _bounds(piece: str, size: int) -> tuple[int, int]:
    """The first and the last byte of a range; raises BadRange."""
    found = RANGE.fullmatch(piece)
    first, last = found.groups() if found else ("", "")
    if first:
        begin, end = int(first), min(int(last or size), size - 1)
    else:
        begin, end = max(0, size - int(last or 0)), size - 1
    if begin > end:
        raise BadRange(size)
    return begin, end
