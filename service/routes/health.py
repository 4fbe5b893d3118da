"""Whether the service lives, is ready, and what it counts."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel

from service.errors import TemperError
from service.routes.answers import Answer
from service.routes.dependencies import Services, ServicesHere
from service.storage import workers

router = APIRouter(tags=["health"])
SEEN_S = 60.0


class Live(Answer):
    """The process answers."""

    live: Literal[True] = True


class Dependency(BaseModel):
    """The state of one thing that the service leans on; only those that are required decide on readiness."""

    state: Literal["ok", "missing", "failed"]
    required: bool
    detail: str = ""


class Ready(Answer):
    """Whether requests can be served."""

    ready: bool
    dependencies: dict[str, Dependency]


@router.get("/livez", response_model=Live)
async def livez() -> Response:
    """200 while the process answers at all."""
    return Live().respond()


@router.get("/readyz", response_model=Ready, responses={503: {"model": Ready}})
def readyz(services: ServicesHere) -> Response:
    """200 when the database and the files answer, else 503; workers may come later."""
    dependencies = {"database": _database(services), "files": _files(services), "workers": _workers(services)}
    ready = all(each.state == "ok" for each in dependencies.values() if each.required)
    headers = {} if ready else {"Retry_After": "2"}
    return Ready(ready=ready, dependencies=dependencies).respond(200 if ready else 503, **headers)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
def metrics(request: Request) -> Response:
    """Counters and times for Prometheus."""
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _database(services: Services) -> Dependency:
    try:
        services.database.ping()
    except TemperError as error:
        return Dependency(state="failed", required=True, detail=error.detail)
    return Dependency(state="ok", required=True)


def _files(services: Services) -> Dependency:
    """The store of the files, by its kind."""
    try:
        services.store.check()
    except TemperError as error:
        return Dependency(state="failed", required=True, detail=f"{services.store.kind}: {error.detail}")
    return Dependency(state="ok", required=True, detail=services.store.kind)


def _workers(services: Services) -> Dependency:
    try:
        with services.database.read() as c:
            count = len(workers.seen(c, SEEN_S))
    except TemperError as error:
        return Dependency(state="failed", required=False, detail=error.detail)
    return Dependency(state="ok" if count else "missing", required=False, detail=f"{count} seen within {SEEN_S:.0f} s")
