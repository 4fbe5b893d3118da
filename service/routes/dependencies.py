"""What routes are given: the services of the process, the caller's project, and the answer's media type."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.errors import Busy
from service.inference.serving import Shelf
from service.queue import Doorbell
from service.routes.access import Caller, Gate
from service.routes.problems import NotAcceptable
from service.routes.watching import Watch
from service.settings import Settings
from service.storage.files import Store
from service.storage.sessions import Database

JSON = "application/json"
CSV = "text/csv"
OPEN = ("/livez", "/readyz")
OPEN_BELOW = ("/problems/", "/v2/health/")
"""What is answered without a key, beside the documentation."""


class Room:
    """What a process has under way at once, counted on its event loop."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One place for as long as the block runs; raises Busy."""
        if self._taken >= self._most:
            raise Busy(f"{self._most} predictions are under way, which is what this process takes at once.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


@dataclass(frozen=True)
class Services:
    """All that routes work with, made once by the application."""

    settings: Settings
    database: Database
    store: Store
    doorbell: Doorbell
    shelf: Shelf
    watch: Watch
    gate: Gate
    room: Room


def services(request: Request) -> Services:
    """The services of the application that serves this request."""
    found: Services = request.app.state.services
    return found


async def entered(request: Request) -> None:
    """Let the request in, before anything of it is read; raises Unauthenticated, Forbidden, RateLimited."""
    path = request.scope["path"]
    if not (path in OPEN or path.startswith(OPEN_BELOW)):
        request.state.caller = await services(request).gate.caller(request)


async def place(request: Request) -> AsyncIterator[None]:
    """A place among the predictions under way, taken before the body is read; raises Busy."""
    with services(request).room.taken():
        yield


def project(request: Request) -> str:
    """The project of the caller."""
    caller: Caller = request.state.caller
    return caller.project


def prefers(accept: str, offered: tuple[str, ...]) -> str | None:
    """The offered media type that an Accept header likes best, None where it takes none; the first of equals."""
    best, quality = None, 0.0
    for media_type in offered:
        liked = _quality(accept, media_type) if accept else 1.0
        if liked > quality:
            best, quality = media_type, liked
    return best


def _quality(accept: str, media_type: str) -> float:
    """RFC 9110 12.5.1: the most specific range that matches decides."""
    found: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip() for part in entry.lower().split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        found[kind] = float(weight) if weight.replace(".", "", 1).isdecimal() else 1.0
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((found[kind] for kind in ranges if kind in found), 0.0)


def chosen(request: Request, offered: tuple[str, ...]) -> str:
    """The offered media type that the caller likes best; raises NotAcceptable."""
    media_type = prefers(request.headers.get("accept", ""), offered)
    if media_type is None:
        raise NotAcceptable(f"This resource is answered as {' or '.join(offered)}.")
    return media_type


def accepts_json(request: Request) -> None:
    """Raises NotAcceptable where the caller takes no JSON."""
    accept = request.headers.get("accept", "")
    if accept and prefers(accept, (JSON,)) is None and prefers(accept, ("application/problem+json",)) is None:
        raise NotAcceptable("This resource is answered as application/json.")


ServicesHere = Annotated[Services, Depends(services)]
Project = Annotated[str, Depends(project)]
