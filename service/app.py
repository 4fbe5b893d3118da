"""The service: settings, database, files and doorbell made once and wired to the routes. `python -m service.app` starts it."""

import argparse
import asyncio
import ctypes
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

import torch
import uvicorn
from fastapi import Depends, FastAPI
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from service import lifeline, logs
from service.data import builtin, staging
from service.inference.serving import Shelf
from service.queue import Doorbell
from service.routes import catalog, datasets, events, health, history, jobs, keys, models, pages, predictions, problems
from service.routes.access import Gate
from service.routes.connections import Connection, affordable
from service.routes.dependencies import Room, Services, entered
from service.routes.openapi import Application
from service.routes.reconciling import reconcile, tidy
from service.routes.requests import Requests
from service.routes.watching import Watch
from service.settings import Settings
from service.storage import migrate
from service.storage.sessions import Database
from service.storage.stores import open_store

ROUTERS = (
    health.router,
    datasets.router,
    jobs.router,
    history.router,
    keys.router,
    events.router,
    models.router,
    predictions.router,
    catalog.router,
    pages.router,
)
M_ARENA_MAX = -8  # of mallopt(3)
KEEP_ALIVE_S = 5
DRAIN_S = 10


def create_app(settings: Settings, *, loopback: bool = True) -> FastAPI:
    """The application on these settings, for an address that only this machine reaches, or not.

    At its start it brings the database up to date and sees to the built-in datasets.
    """
    store = open_store(settings)
    database = Database(settings.database)
    made = Services(
        settings=settings,
        database=database,
        store=store,
        doorbell=Doorbell(settings.broker_url),
        shelf=Shelf(store),
        watch=Watch(database),
        gate=Gate(database, keyed=_keyed(settings, loopback), rate=settings.key_rate, burst=settings.key_burst),
        room=Room(settings.max_predictions),
    )
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    app = Application(
        title="Temper",
        version=_version(),
        lifespan=_lifespan,
        redirect_slashes=False,
        redoc_url=None,
        dependencies=[Depends(entered)],
        middleware=[Middleware(Requests, registry=registry)],
    )
    app.state.services, app.state.registry = made, registry
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    await run_in_threadpool(_prepare, services)
    looking = [
        asyncio.create_task(reconcile(services.settings, services.database, services.doorbell)),
        asyncio.create_task(tidy(services.store, services.database)),
    ]
    yield
    for each in looking:
        each.cancel()
    services.watch.close()
    services.doorbell.close()
    services.database.close()


def _prepare(services: Services) -> None:
    services.settings.data.mkdir(parents=True, exist_ok=True)
    migrate.upgrade(services.settings.database)
    staging.sweep(services.store)
    builtin.ensure(services.database, services.store)


def _keyed(settings: Settings, loopback: bool) -> bool:
    """Whether requests need a key: they need none only in embedded mode on a loopback address."""
    return settings.auth == "keys" or not loopback or (settings.auth == "auto" and bool(settings.database_url))


def _version() -> str:
    try:
        return version("temper")
    except PackageNotFoundError:
        return "0"


def _few_arenas() -> None:
    """Let the threads share glibc's arenas: what one of each of them held back grew with every crowd of readers, to no end."""
    with suppress(OSError, AttributeError):  # another system's allocator
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


class Server(uvicorn.Server):
    """uvicorn that ends streams and long polls as soon as it is told to stop: it would wait for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT."""
        if isinstance(self.config.app, FastAPI):
            asyncio.get_running_loop().call_soon_threadsafe(self.config.app.state.services.watch.close)
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve on the host and port of the command line."""
    lifeline.watch()
    _few_arenas()
    parser = argparse.ArgumentParser(prog="python -m service.app")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    settings = Settings()
    loopback = ipaddress.ip_address("127.0.0.1" if given.host == "localhost" else given.host).is_loopback
    if settings.auth == "off" and not loopback:
        parser.error("TEMPER_AUTH=off is for loopback addresses")
    # One thread per process: two on busy cores make the same work several times slower.
    torch.set_num_threads(1)
    logs.configure(settings.log_level)
    config = uvicorn.Config(
        create_app(settings, loopback=loopback), host=given.host, port=given.port, log_config=None, access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=DRAIN_S, http=Connection, ws="none", server_header=False,
        limit_concurrency=affordable(settings.max_connections),
    )  # fmt: skip
    Server(config).run()


if __name__ == "__main__":
    main()
