"""The worker: `python -m workers.app`. Celery hears the doorbell; the supervisor's threads do the work, with or without it."""

import logging
import sys
from typing import Any

import structlog
from celery import Celery
from celery.signals import setup_logging, worker_shutting_down

from service import lifeline
from service.queue import configuration
from service.settings import Settings
from service.storage.sessions import Database
from workers import tasks
from workers.supervisor import ENTRY, PRELOAD, Supervisor, WrongHost


def configure_logs(level: str) -> None:
    """One JSON object per line on standard error, ours and the libraries' alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def run(settings: Settings, *, entry: str = ENTRY, preload: tuple[str, ...] = PRELOAD) -> int:
    """Work till a signal says to end; returns the exit status."""
    configure_logs(settings.log_level)
    # Whoever listens to this signal keeps Celery from setting up its own logs.
    setup_logging.connect(lambda **_: None, weak=False)
    database = Database(settings.database)
    supervisor = Supervisor(settings, database, entry=entry, preload=preload)
    app = Celery("temper", set_as_current=False)
    app.conf.update(configuration(settings.broker_url))
    tasks.register(app, supervisor.ring)
    worker_shutting_down.connect(lambda **_: supervisor.drain(), weak=False)
    try:
        supervisor.start()
    except WrongHost as error:
        structlog.get_logger("workers.app").error(str(error))
        return 1
    try:
        worker = app.Worker(pool="threads", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True, quiet=True)
        worker.start()
        return int(worker.exitcode or 0)
    finally:
        supervisor.stop()
        database.close()


def main() -> None:
    """Run a worker with the settings of the environment."""
    lifeline.watch()
    sys.exit(run(Settings()))


if __name__ == "__main__":
    main()
