"""Who works: one row per living worker, renewed while it lives."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from service.storage.sessions import now, upsert
from service.storage.tables import workers


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker: its host, how many shards it runs at once, and when it was last seen in epoch seconds."""

    id: str
    host: str
    slots: int
    started_at: float
    seen_at: float


def beat(c: Connection, worker: Worker) -> None:
    """Say that the worker lives; its `started_at` and `seen_at` are taken from the database's clock."""
    known = c.execute(select(workers.c.started_at).where(workers.c.id == worker.id)).scalar_one_or_none()
    row = {"id": worker.id, "host": worker.host, "slots": worker.slots, "started_at": known or now(), "seen_at": now()}
    upsert(c, workers, [row], ("id",))


def seen(c: Connection, within_s: float) -> list[Worker]:
    """The workers seen within the last seconds."""
    query = select(workers).where(workers.c.seen_at >= now() - within_s).order_by(workers.c.id)
    return [Worker(**row._mapping) for row in c.execute(query)]


def leave(c: Connection, worker_id: str, forget_s: float) -> None:
    """Remove the worker's row, and those not seen for `forget_s` seconds."""
    c.execute(delete(workers).where((workers.c.id == worker_id) | (workers.c.seen_at < now() - forget_s)))
