"""Shards of lost workers, given back by the API too: a cancel has to end a job even where no worker lives."""

import asyncio

from starlette.concurrency import run_in_threadpool

from service import logs
from service.errors import TemperError
from service.queue import Doorbell
from service.settings import Settings
from service.storage import shards
from service.storage.sessions import Database

log = logs.logger("temper.reconciling")


async def reconcile(settings: Settings, database: Database, doorbell: Doorbell) -> None:
    """Look every `heartbeat_s`, for ever."""

    def look() -> None:
        while database.transact(lambda c: shards.reconcile(c, settings.max_attempts)):
            log.warning("shards of a lost worker were given back")
            doorbell.ring()

    while True:
        await asyncio.sleep(settings.heartbeat_s)
        try:
            await run_in_threadpool(look)
        except TemperError as error:
            log.warning("the reconciler could not look", error=error.detail)
        except Exception:
            log.exception("the reconciler could not look")
