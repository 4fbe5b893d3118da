"""Answers kept under their caller's Idempotency-Key: the first request is served, the same again gets the same answer.

A request reserves its place for as long as a lease runs, and writes its answer in the transaction of what it creates: who
lost the place meanwhile creates nothing.
"""

from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, delete, select, update

from service.errors import IdempotencyInProgress, IdempotencyMismatch
from service.storage.sessions import insert_new, now
from service.storage.tables import idempotency

KEPT_S = 86_400.0
_PRUNED = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is kept: the caller's project, the route, and the key that the caller chose."""

    project: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was given: the digest of what had been sent, status, Location and JSON."""

    digest: str
    status: int
    location: str | None
    body: str

    def check(self, digest: str) -> None:
        """Raises IdempotencyMismatch for another body."""
        if digest != self.digest:
            raise IdempotencyMismatch("this Idempotency-Key was used with another body")


def reserve(c: Connection, place: Place, lease_s: float) -> Kept | str:
    """The answer that was kept, or the caller's name as owner of the place; raises IdempotencyInProgress."""
    _prune(c)
    mine = uuid4().hex
    i = idempotency.c
    row = c.execute(select(idempotency, now().label("now")).where(*_at(place)).with_for_update()).one_or_none()
    if row is None:
        fresh = {"project_id": place.project, "route": place.route, "key": place.key, "owner": mine, "lease": now() + lease_s,
                 "created_at": now()}  # fmt: skip
        insert_new(c, idempotency, fresh)  # of two that came at once, who is read back has the place
        row = c.execute(select(idempotency, now().label("now")).where(*_at(place)).with_for_update()).one()
    if row.status is not None:
        return Kept(row.digest, row.status, row.location, row.body)
    if row.owner != mine and row.lease > row.now:
        raise IdempotencyInProgress("a request with this Idempotency-Key is under way")
    c.execute(update(idempotency).where(*_at(place)).values({i.owner: mine, i.lease: now() + lease_s}))
    return mine


def renew(c: Connection, place: Place, owner: str, lease_s: float) -> None:
    """Hold the place for longer."""
    c.execute(update(idempotency).where(*_at(place), idempotency.c.owner == owner).values(lease=now() + lease_s))


def keep(c: Connection, place: Place, owner: str, answer: Kept) -> None:
    """Keep the answer, in the transaction of what it tells of; raises IdempotencyInProgress for who lost the place."""
    values = {"digest": answer.digest, "status": answer.status, "location": answer.location, "body": answer.body}
    mine = (*_at(place), idempotency.c.owner == owner, idempotency.c.status.is_(None))
    if c.execute(update(idempotency).where(*mine).values(values)).rowcount == 0:
        raise IdempotencyInProgress("another request with this Idempotency-Key went ahead")


def release(c: Connection, place: Place, owner: str) -> None:
    """Give the place up: the request created nothing, and may be sent again, corrected."""
    c.execute(delete(idempotency).where(*_at(place), idempotency.c.owner == owner, idempotency.c.status.is_(None)))


def _at(place: Place) -> tuple[ColumnElement[bool], ...]:
    i = idempotency.c
    return (i.project_id == place.project, i.route == place.route, i.key == place.key)


def _prune(c: Connection) -> None:
    i = idempotency.c
    old = select(i.project_id, i.route, i.key).where(i.created_at < now() - KEPT_S).limit(_PRUNED)
    for row in c.execute(old).all():
        c.execute(delete(idempotency).where(i.project_id == row[0], i.route == row[1], i.key == row[2]))
