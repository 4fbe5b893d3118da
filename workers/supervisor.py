"""The worker's own threads: its slots, and one that looks after shards whose workers are lost. No torch, no Celery."""

import socket
import time
from threading import Event, Thread

import structlog

from service.errors import TemperError
from service.settings import Settings
from service.storage import shards, workers
from service.storage.ids import new_id
from service.storage.sessions import Database
from service.storage.stores import open_store
from workers.bell import Bell
from workers.children import Trainers
from workers.engines import Planner, calibration
from workers.slots import Slot
from workers.workshop import Workshop

ENTRY = "workers.training.trainer:main"
PRELOAD = ("workers.training.preload",)
FORGET_S = 3600.0  # a worker not seen for so long is dropped from the table
log = structlog.get_logger("workers.supervisor")


class WrongHost(Exception):
    """A SQLite database in use on another host: its locks would not hold between the two."""


class Supervisor:
    """Runs shards in trainers until it drains. `threads` is what each trainer computes with."""

    def __init__(
        self, settings: Settings, database: Database, *, entry: str = ENTRY, preload: tuple[str, ...] = PRELOAD, threads: int = 1
    ) -> None:
        self._settings = settings
        self._database = database
        self._bell = Bell()
        self._draining = Event()
        self._worker = workers.Worker(new_id("wrk"), socket.gethostname(), settings.slots, 0.0, 0.0)
        store = open_store(settings)
        self._shop = Workshop(
            settings=settings,
            database=database,
            trainers=Trainers(entry, (*preload, type(store).__module__)),  # a client of S3 takes long to import
            store=store,
            bell=self._bell,
            draining=self._draining,
            owner=self._worker.id,
            engine=Planner(threads, calibration(settings.data)),
        )
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Start all threads and return; raises WrongHost."""
        self._check_host()
        slots = [Thread(target=Slot(self._shop).run, name=f"slot-{n}", daemon=True) for n in range(self._settings.slots)]
        self._threads = [*slots, Thread(target=self._look_after, name="reconciler", daemon=True)]
        for thread in self._threads:
            thread.start()
        log.info("the worker begins", worker=self._worker.id, slots=self._settings.slots)

    def ring(self) -> None:
        """Say that there is work."""
        self._bell.ring()

    @property
    def draining(self) -> bool:
        """Whether it was told to end."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Claim nothing more, have the trainers write checkpoints and give their shards back; returns at once."""
        self._draining.set()

    def stop(self) -> None:
        """Drain and wait for it, within the grace and little more."""
        self.drain()
        self._bell.ring()
        deadline = time.monotonic() + self._settings.grace_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        try:
            with self._database.write() as c:
                workers.leave(c, self._worker.id, FORGET_S)
        except TemperError as error:
            log.warning("the worker's row stays behind", error=error.detail)
        log.info("the worker ends", worker=self._worker.id)

    def _check_host(self) -> None:
        if self._database.dialect != "sqlite":
            return
        try:
            with self._database.read() as c:
                others = {worker.host for worker in workers.seen(c, 3 * self._settings.heartbeat_s)} - {self._worker.host}
        except TemperError:  # the database will come
            return
        if others:
            raise WrongHost(f"a worker on {', '.join(sorted(others))} uses this SQLite database: use PostgreSQL for several hosts")

    def _look_after(self) -> None:
        """Every `poll_s`: shards of lost workers go back; every `heartbeat_s`: say that this worker lives."""
        beaten = -self._settings.heartbeat_s
        while not self._draining.is_set():
            try:
                if time.monotonic() - beaten >= self._settings.heartbeat_s:
                    self._database.transact(lambda c: workers.beat(c, self._worker))
                    beaten = time.monotonic()
                while self._database.transact(lambda c: shards.reconcile(c, self._settings.max_attempts)):
                    log.warning("shards of a lost worker were given back")
                    self._bell.ring()
            except TemperError as error:
                log.warning("the reconciler could not look", error=error.detail)
            except Exception:
                log.exception("the reconciler could not look")
            self._draining.wait(self._settings.poll_s)
