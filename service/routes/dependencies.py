"""What routes are given: the services of the process, the caller's project, and the answer's media type."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

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


def services(request: Request) -> Services:
    """The services of the application that serves this request."""
    found: Services = request.app.state.services
    return found


async def entered(request: Request) -> None:
    """Let the request in, before anything of it is read; raises Unauthenticated, Forbidden, RateLimited."""
    path = request.scope["path"]
    if not (path in OPEN or path.startswith(OPEN_BELOW)):
        request.state.caller = await services(request).gate.caller(request)


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
