"""A POST that creates, once for each Idempotency-Key."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from service.errors import BadIdempotencyKey
from service.storage import idempotency
from service.storage.idempotency import Kept, Place
from service.storage.sessions import Database

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
LONGEST = 255
LEASE_S = 30.0

Keep = Callable[[Connection, Response], None]
"""Keeps the answer in the transaction of what it tells of."""


class Once:
    """One request's place under its key; without a key everything is done as if there were none."""

    def __init__(self, database: Database, request: Request, project: str) -> None:
        self._database = database
        key = _key(request)
        path = request.scope["path"]
        self._place = None if key is None else Place(project, f"{request.method} {path}", key)
        self._owner = ""

    def begin(self) -> Kept | None:
        """Take the place, or the answer that was given before; raises IdempotencyInProgress."""
        if self._place is None:
            return None
        with self._database.write() as c:
            found = idempotency.reserve(c, self._place, LEASE_S)
        if isinstance(found, Kept):
            return found
        self._owner = found
        return None

    def keep(self, digest: str, *, shown: str | None = None) -> Keep:
        """What keeps the answer to a body of this digest; `shown` replaces the JSON that a repetition gets."""

        def kept(c: Connection, response: Response) -> None:
            if self._place is not None:
                body = shown if shown is not None else bytes(response.body).decode()
                answer = Kept(digest, response.status_code, response.headers.get("location"), body)
                idempotency.keep(c, self._place, self._owner, answer)

        return kept

    def release(self) -> None:
        """Give the place up after a failure."""
        if self._place is not None and self._owner:
            with self._database.write() as c:
                idempotency.release(c, self._place, self._owner)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the place for as long as the block takes, and give it up where the block fails."""
        task = asyncio.ensure_future(self._renew()) if self._owner else None
        try:
            yield
        except BaseException:
            await asyncio.shield(run_in_threadpool(self.release))
            raise
        finally:
            if task is not None:
                task.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await run_in_threadpool(self._hold)

    def _hold(self) -> None:
        if self._place is not None:
            with self._database.write() as c:
                idempotency.renew(c, self._place, self._owner, LEASE_S)


def answered_once(once: Once, digest: str, work: Callable[[Keep], Response]) -> Response:
    """The answer of `work`, or the one that was given to the same request before; raises IdempotencyMismatch, IdempotencyInProgress."""
    if (before := once.begin()) is not None:
        return replayed(before, digest)
    try:
        return work(once.keep(digest))
    except BaseException:
        once.release()
        raise


def replayed(before: Kept, digest: str) -> Response:
    """The answer that was given before, to the same body; raises IdempotencyMismatch."""
    before.check(digest)
    headers = {REPLAYED: "true"} | ({"Location": before.location} if before.location else {})
    return Response(before.body, status_code=before.status, headers=headers, media_type="application/json")


def digest_of(*parts: Any) -> str:
    """What tells two bodies apart: their JSON values, whatever their white space."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")).hexdigest()


def _key(request: Request) -> str | None:
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not 0 < len(given) <= LONGEST or not all(" " <= character <= "~" for character in given):
        raise BadIdempotencyKey(f"{HEADER} is 1 to {LONGEST} printable ASCII characters.")
    return given
