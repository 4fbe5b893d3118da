"""Who calls: a key's project and scopes, checked before anything of the request is read."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from service.errors import Forbidden, RateLimited, Unauthenticated
from service.storage import keys
from service.storage.keys import SCOPES, Key
from service.storage.sessions import Database

EMBEDDED = "default"
_READING = ("GET", "HEAD")
_PREDICTING = ("/predict", "/attack", "/project")


@dataclass(frozen=True)
class Caller:
    """Whom a request comes from."""

    project: str
    scopes: tuple[str, ...]
    key: str | None = None

    def check(self, scope: str) -> None:
        """Raises Forbidden without the scope; `admin` has all."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Forbidden(f"The key does not have the scope {scope}.")


ANYBODY = Caller(EMBEDDED, SCOPES)


class Gate:
    """Lets requests in: with a key, or everybody where none is asked for."""

    def __init__(self, database: Database, *, keyed: bool, rate: float = 0.0, burst: int = 100) -> None:
        self._database, self.keyed = database, keyed
        self._buckets = Buckets(rate, burst) if rate else None

    async def caller(self, request: Request) -> Caller:
        """Who calls; raises Unauthenticated, Forbidden, RateLimited."""
        if not self.keyed:
            _refuse_other_sites(request)
            return ANYBODY
        key = await run_in_threadpool(self._key, _token(request))
        if self._buckets is not None and (wait := self._buckets.take(key.id)):
            raise RateLimited("The key sends more requests than it may.", retry_after_s=max(1, round(wait + 0.5)))
        caller = Caller(key.project_id, key.scopes, key.id)
        caller.check(scope_of(request.method, request.url.path))
        return caller

    def _key(self, token: str) -> Key:
        with self._database.read() as c:
            key = keys.find(c, token)
        if key is None:
            raise Unauthenticated("A key that holds has to be sent as Authorization: Bearer.")
        if key.unnoted:
            with self._database.write() as c:
                keys.used(c, key)
        return key


class Buckets:
    """A token bucket per key: `burst` requests at once, `rate` per second after them."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """0 when the key may go on, else the seconds until it may."""
        with self._lock:
            at = self._clock()
            left, since = self._left.get(key, (float(self._burst), at))
            left = min(float(self._burst), left + (at - since) * self._rate)
            granted = left >= 1
            self._left[key] = (left - 1 if granted else left, at)
            return 0.0 if granted else (1 - left) / self._rate


def scope_of(method: str, path: str) -> str:
    """The scope that a request needs."""
    if path.startswith("/api/v1/keys"):
        return "admin"
    if method in _READING:
        return "read"
    return "predict" if path.endswith(_PREDICTING) else "train"


def _refuse_other_sites(request: Request) -> None:
    """Raises Forbidden for what another site's page sends: a browser on this machine reaches a loopback address too."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Forbidden("Pages of other sites may not use a service that asks for no key.")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
