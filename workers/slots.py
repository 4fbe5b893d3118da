"""A slot: the place of one running shard, a thread that claims, supervises and claims again."""

import time

import structlog

from service.errors import TemperError
from service.storage import models, shards
from service.storage.ids import new_id
from service.storage.shards import Claim, Ghost
from workers import evidence
from workers.attempts import Attempt, told
from workers.messages import Assignment
from workers.workshop import Workshop

PAUSE_S = 1.0  # after a fault
log = structlog.get_logger("workers.slot")


class Slot:
    """Runs one shard at a time until the worker drains."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop

    def run(self) -> None:
        """The thread's life; a fault of one attempt never ends it."""
        self._shop.trainers.warm()
        while not self._shop.draining.is_set():
            seen = self._shop.bell.count
            claim = self._claim()
            if claim is None:
                self._shop.bell.wait(seen, self._shop.settings.poll_s)
            else:
                self._attempt(claim)

    def _claim(self) -> Claim | None:
        settings = self._shop.settings
        try:
            with self._shop.database.write() as c:
                return shards.claim(c, self._shop.owner, settings.lease_s, max_attempts=settings.max_attempts, engine=self._shop.engine)
        except TemperError as error:
            log.warning("no shard could be claimed", error=error.detail)
        except Exception:
            log.exception("no shard could be claimed")
        return None

    def _attempt(self, claim: Claim) -> None:
        shop, model_id = self._shop, new_id("mdl")
        log.info("the attempt begins", kind=claim.kind, **told(claim))
        try:
            trainer = shop.trainers.start(assignment(claim, model_id, shop))
            attempt = Attempt(claim, trainer, shop=shop, model_id=model_id)
            attempt.run()
            if claim.kind == "publish":
                self._tidy(claim, model_id, attempt.published)
        except Exception as error:
            log.exception("the attempt broke in its supervisor", **told(claim))
            self._report(claim, error)
            time.sleep(PAUSE_S)

    def _report(self, claim: Claim, error: Exception) -> None:
        """Say on the row that the attempt broke; if even that cannot be, the lease runs out."""
        told = evidence.problem("worker-fault", "Worker fault", f"The worker could not supervise the trainer: {type(error).__name__}.")
        try:
            with self._shop.database.write() as c:
                shards.fail(c, claim, told, retryable=True, max_attempts=self._shop.settings.max_attempts)
        except (Ghost, TemperError):
            log.warning("the fault could not be reported", job=claim.job_id, shard=claim.number)

    def _tidy(self, claim: Claim, model_id: str, published: bool) -> None:
        """Remove the checkpoints of a job that has its model, or the files of a model that never was."""
        try:
            if published:
                self._shop.store.delete(f"jobs/{claim.job_id}")
                return
            with self._shop.database.read() as c:  # a commit whose answer was lost has published all the same
                kept = models.exists(c, model_id)
            if not kept:
                self._shop.store.delete(f"models/{model_id}")
        except (OSError, TemperError):
            log.exception("files stay behind", job=claim.job_id, model=model_id)


def assignment(claim: Claim, model_id: str, shop: Workshop) -> Assignment:
    """What the trainer of the claim is told."""
    return Assignment(
        job_id=claim.job_id,
        shard=claim.number,
        kind=claim.kind,
        fence=claim.fence,
        members=claim.members,
        spec=claim.spec,
        dataset_id=claim.dataset_id or "",
        scratch_key=f"jobs/{claim.job_id}/{claim.fence:06d}-{claim.number}",
        model_id=model_id,
        store=shop.store,
        checkpoint=claim.checkpoint,
        results=claim.results,
        threads=int(claim.engine["threads"]),
        stack=int(claim.engine.get("stack", 1)),
        memory_bytes=shop.settings.slot_memory_bytes,
    )
