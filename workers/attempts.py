"""One attempt at one shard, seen from its supervisor: what the trainer says is written, what the database says is ordered."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection

from service import tracing
from service.errors import DependencyUnavailable, StorageFull
from service.storage import metrics, shards
from service.storage.models import ModelDraft
from service.storage.shards import Claim, Ghost
from workers import evidence
from workers.children import Trainer
from workers.messages import DRAIN, STOP, Checkpointed, Done, Drained, Failed, Log, Metrics, Progress
from workers.workshop import Workshop

TICK_S = 0.5  # how often orders are read, and at most so often reports are written
STALL_S = 600.0
UNREACHABLE = f"/problems/{DependencyUnavailable.slug}"
DRAIN_SHARE = 0.8  # of the grace goes to the trainer, the rest to writing down where it is


class Cancelled:
    """The attempt was killed because its job was cancelled or has failed."""


@dataclass(slots=True)
class Batch:
    """What the trainer said and no row has yet."""

    progress: Progress | None = None
    rows: list[tuple[int, int, str, float]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    checkpoint: dict[str, Any] | None = None

    @property
    def reported(self) -> bool:
        """Whether there is something that can wait for the next tick."""
        return self.progress is not None or bool(self.rows) or bool(self.lines)


class Attempt:
    """Runs to the end of one claim; `published` is then true if its job got its model."""

    def __init__(self, claim: Claim, trainer: Trainer, *, shop: Workshop, model_id: str) -> None:
        self._claim = claim
        self._files = shop.store
        self._trainer = trainer
        self._database = shop.database
        self._settings = shop.settings
        self._draining = shop.draining
        self._model_id = model_id
        self._log = structlog.get_logger("workers.attempt").bind(**told(claim))
        limits = claim.spec.get("limits") or {}
        began = time.monotonic()
        self._stall_s = float(limits.get("stall_s") or STALL_S)
        time_s = limits.get("time_s")
        self._deadline = None if time_s is None or claim.kind == "publish" else began + float(time_s) - claim.elapsed_s
        self._kills = evidence.oom_kills()
        self._heard = self._renewed = began
        self._asked = self._stored = began - TICK_S
        self._blocked = False
        self._drain_by: float | None = None
        self._stopping = False
        self._batch = Batch()
        self._kept = claim.checkpoint
        self._stale: list[dict[str, Any]] = []
        self._outcome: Done | Failed | Drained | Cancelled | None = None
        self._unreachable: Failed | None = None
        self._closed = False
        self.published = False

    def run(self) -> None:
        """Supervise till the shard is finished, given back or no longer ours; raises only for faults of our own."""
        try:
            while not self._closed:
                self._listen()
                self._obey()
                self._store()
        except Ghost:
            self._log.warning("the shard was granted to another worker or is gone")
        finally:
            self._trainer.end()

    def _listen(self) -> None:
        if self._outcome is not None:  # only the database is waited for
            time.sleep(TICK_S if self._blocked else 0.0)
            return
        if self._unreachable is not None:
            time.sleep(TICK_S)
            return
        pause = TICK_S
        if self._batch.reported:
            pause = min(max(self._stored + TICK_S - time.monotonic(), 0.0), TICK_S)
        for message in self._trainer.receive(pause):
            self._heard = time.monotonic()
            self._take(message)
        if self._outcome is None and self._unreachable is None and self._trainer.silent:
            self._outcome = evidence.of_death(self._trainer.exitcode, self._kills)

    def _take(self, message: object) -> None:
        match message:
            case Progress():
                self._batch.progress = message
            case Metrics(rows):
                self._batch.rows.extend(rows)
            case Log(level, text):
                self._batch.lines.append((level, text))
            case Checkpointed(record):
                if self._batch.checkpoint is not None:
                    self._stale.append(self._batch.checkpoint)
                self._batch.checkpoint = record
            case Failed(error) if error["type"] == UNREACHABLE:
                self._unreachable = message
            case Done() | Failed() | Drained():
                self._outcome = message
            case _:
                self._log.error("not a message", message=repr(message)[:200])

    def _obey(self) -> None:
        if self._outcome is not None:
            return
        now = time.monotonic()
        if self._unreachable is not None:
            self._await_store(now, self._unreachable)
        elif now - self._heard > self._stall_s:
            self._kill(evidence.of_stall(self._stall_s))
        elif self._draining.is_set():
            self._drain(now)
        elif self._deadline is not None and now >= self._deadline:
            self._stop("time_limit")
        if self._outcome is None and now - self._asked >= TICK_S:
            self._asked = now
            self._ask()

    def _await_store(self, now: float, failed: Failed) -> None:
        """Hold the shard until the store answers again: attempts that it breaks at once would soon be used up."""
        if self._draining.is_set():
            self._outcome = Drained()
        elif now - self._heard > self._settings.heartbeat_s:
            try:
                self._files.check()
            except DependencyUnavailable:
                return
            self._outcome = failed

    def _ask(self) -> None:
        """Read what the user wants; raises Ghost."""
        try:
            with self._database.read() as c:
                orders = shards.orders(c, self._claim)
        except DependencyUnavailable:
            return
        if not orders.alive:
            raise Ghost
        if orders.cancel:
            self._kill(Cancelled())
        elif orders.stop:
            self._stop("user_stop")

    def _kill(self, outcome: Failed | Drained | Cancelled) -> None:
        self._trainer.kill()
        self._outcome = outcome

    def _stop(self, reason: str) -> None:
        if not self._stopping:
            self._stopping = True
            self._trainer.order(STOP + reason)

    def _drain(self, now: float) -> None:
        if self._drain_by is None:
            self._drain_by = now + self._settings.grace_s * DRAIN_SHARE
            self._trainer.order(DRAIN)
        elif now > self._drain_by:
            self._kill(Drained())  # the last checkpoint is what the next attempt has

    def _store(self) -> None:
        """Write what is due, all in one transaction; what the database could not take is kept for the next round."""
        now = time.monotonic()
        beat = now - self._renewed >= self._settings.heartbeat_s
        due = self._batch.reported and now - self._stored >= TICK_S
        if not (beat or due or self._batch.checkpoint is not None or self._outcome is not None):
            return
        self._stored = now
        try:
            with self._database.write() as c:
                self._write(c)
        except (DependencyUnavailable, StorageFull) as error:
            self._log.warning("the database took nothing", error=error.detail)
            if now - self._renewed > self._settings.lease_s:
                raise Ghost from error
            self._blocked = True
            return
        self._blocked = False
        self._renewed = now
        if self._batch.checkpoint is not None:
            older = (self._kept or {}).get("previous")
            self._stale += [older] if older is not None else []
            self._kept = self._linked(self._batch.checkpoint)
        self._batch = Batch()
        self._prune()
        self._closed = self._outcome is not None

    def _linked(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with the one before it, which is used where the new one turns out to be damaged."""
        kept = self._kept
        return {**record, "previous": None if kept is None else {name: value for name, value in kept.items() if name != "previous"}}

    def _prune(self) -> None:
        """Remove checkpoints that no row names any more; finished members' files live on in the newest."""
        for record in self._stale:
            for file in record.get("files", {}).values():
                self._files.delete(file["key"])
        self._stale.clear()

    def _write(self, c: Connection) -> None:
        batch, claim = self._batch, self._claim
        if batch.checkpoint is not None:
            shards.checkpoint(c, claim, self._linked(batch.checkpoint))
        if batch.reported:
            progress = None if batch.progress is None else asdict(batch.progress)
            shards.record(c, claim, progress=progress, values=metrics.finite(batch.rows), lines=batch.lines)
        if self._outcome is None:
            shards.heartbeat(c, claim, self._settings.lease_s)
        else:
            self._close(c)

    def _close(self, c: Connection) -> None:
        claim = self._claim
        match self._outcome:
            case Done(result) if claim.kind == "publish":
                self.published = shards.publish(c, claim, outcome_of(result, self._model_id))
            case Done(result):
                shards.finish(c, claim, result)
            case Failed(error, retryable):
                again = shards.fail(c, claim, error, retryable=retryable, max_attempts=self._settings.max_attempts)
                self._log.warning("the attempt failed", again=again, **error)
            case Drained():
                shards.release(c, claim)
            case Cancelled():
                shards.cancel(c, claim)
        self._log.info("the attempt ended", outcome=type(self._outcome).__name__)


def told(claim: Claim) -> dict[str, Any]:
    """What every log line about an attempt says of it."""
    return {"job": claim.job_id, "shard": claim.number, "fence": claim.fence, **tracing.told(claim.extra.get("traceparent"))}


def outcome_of(result: dict[str, Any], model_id: str) -> shards.Outcome:
    """What a publish shard's trainer said, as what is stored."""
    model = result.get("model")
    draft = None if model is None else ModelDraft(id=model_id, **model)
    return shards.Outcome(model=draft, result=result["result"], best=result.get("best"), stop_reason=result.get("stop_reason"))
