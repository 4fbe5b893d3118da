"""The worker: `python -m workers.app`. Celery hears the doorbell; the supervisor's threads do the work, with or without it."""

import os
import signal
import sys
import time

import structlog
from celery import Celery
from celery.signals import setup_logging, worker_shutting_down

from service import lifeline, logs
from service.queue import configuration
from service.settings import Settings
from service.storage.sessions import Database
from workers import tasks
from workers.supervisor import ENTRY, PRELOAD, Supervisor, WrongHost

HANG_S = 1.0


def run(settings: Settings, *, entry: str = ENTRY, preload: tuple[str, ...] = PRELOAD) -> int:
    """Work till a signal says to end; returns the exit status."""
    logs.configure(settings.log_level)
    # Trainers draw the report's pictures; their font cache belongs to us, not to a home that may be read-only.
    os.environ.setdefault("MPLCONFIGDIR", str(settings.data.absolute() / "cache" / "matplotlib"))
    # Whoever listens to this signal keeps Celery from setting up its own logs.
    setup_logging.connect(lambda **_: None, weak=False)
    database = Database(settings.database)
    supervisor = Supervisor(settings, database, entry=entry, preload=preload)
    app = Celery("temper", set_as_current=False)
    app.conf.update(configuration(settings.broker_url))
    tasks.register(app, supervisor.ring)
    worker_shutting_down.connect(lambda **_: supervisor.drain(), weak=False)
    # Slots claim before Celery listens to signals.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.drain())
    try:
        supervisor.start()
    except WrongHost as error:
        structlog.get_logger("workers.app").error(str(error))
        return 1
    try:
        return _listen(app, supervisor)
    finally:
        supervisor.stop()
        database.close()


def _listen(app: Celery, supervisor: Supervisor) -> int:
    """Hear the bell till a signal says to end; a message that Celery breaks at, which any client of the broker can send, is not the end."""
    while True:
        worker = app.Worker(pool="threads", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True, quiet=True)
        if not supervisor.draining:
            worker.start()
        if supervisor.draining or not worker.exitcode:
            return int(worker.exitcode or 0)
        structlog.get_logger("workers.app").warning("the bell broke and is hung up again; shards are claimed meanwhile")
        time.sleep(HANG_S)


def main() -> None:
    """Run a worker with the settings of the environment."""
    lifeline.watch()
    sys.exit(run(Settings()))


if __name__ == "__main__":
    main()
