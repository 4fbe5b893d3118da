"""What a service does by itself: shards of lost workers go back, and files that no row needs are removed.

The API does the first as well as the workers: a cancel has to end a job even where no worker lives.
"""

import asyncio
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool

from service import logs
from service.errors import TemperError
from service.queue import Doorbell
from service.settings import Settings
from service.storage import orphans, shards
from service.storage.files import Store
from service.storage.sessions import Database

TIDY_S = 3600.0
log = logs.logger("temper.reconciling")


async def reconcile(settings: Settings, database: Database, doorbell: Doorbell) -> None:
    """Look every `heartbeat_s`, for ever."""

    def look() -> None:
        while database.transact(lambda c: shards.reconcile(c, settings.max_attempts)):
            log.warning("shards of a lost worker were given back")
            doorbell.ring()

    await _forever(look, settings.heartbeat_s, "the reconciler could not look")


async def tidy(store: Store, database: Database) -> None:
    """Look every hour, for ever."""

    def look() -> None:
        if removed := orphans.collect(store, database):
            log.warning("folders without a row were removed", keys=removed[:20], count=len(removed))

    await _forever(look, TIDY_S, "the files could not be tidied")


async def _forever(look: Callable[[], None], every_s: float, fault: str) -> None:
    """Look again and again; a fault is told and ends nothing."""
    while True:
        try:
            await run_in_threadpool(look)
        except TemperError as error:
            log.warning(fault, error=error.detail)
        except Exception:
            log.exception(fault)
        await asyncio.sleep(every_s)
