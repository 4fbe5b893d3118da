"""Every error that the client and the command line raise.

TemperError
├── CannotStart                    the embedded service cannot be started
├── Unreachable                    the service does not answer
├── WaitTimeout (TimeoutError)     a job is not done in the time given
├── JobFailed, JobCancelled        a job ended otherwise than hoped
└── Problem                        the service's answer (RFC 9457)
    ├── BadRequest 400             ├── TooLarge 413
    ├── Unauthenticated 401        ├── UnsupportedMediaType 415
    ├── Forbidden 403              ├── Invalid 422
    ├── NotFound 404               ├── TooManyRequests 429
    ├── Conflict 409               └── ServerError 5xx ── Unavailable 503, StorageFull 507
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class TemperError(Exception):
    """The root of what this package raises."""


class CannotStart(TemperError):
    """The embedded service cannot start or go on; the message says why and what to do."""


class Unreachable(TemperError):
    """No answer came from the service."""


class WaitTimeout(TemperError, TimeoutError):
    """The job goes on; only the waiting is over."""


class JobCancelled(TemperError):
    """The job was cancelled; nothing was published."""


class JobFailed(TemperError):
    """The job failed; `error` is the problem it stored: type, title, detail, and the log's tail."""

    def __init__(self, job: str, error: Mapping[str, Any]) -> None:
        self.error = dict(error)
        text = ": ".join(str(error[key]) for key in ("title", "detail") if error.get(key))
        super().__init__(f"Job {job} failed: {text or 'no cause was stored'}")


class Flaw(NamedTuple):
    """One thing that is wrong in a request: a JSON pointer into what was sent, a code and a sentence."""

    pointer: str
    code: str
    message: str


class Problem(TemperError):
    """An answer that is an error: `status`, `slug`, `title`, `detail`, `flaws` and the `request_id` to ask about."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.slug = str(body.get("type", "about:blank")).rpartition("/")[2]
        self.title = str(body.get("title") or f"HTTP {status}")
        self.detail = str(body.get("detail") or "")
        self.request_id = body.get("request_id")
        flaws: Sequence[Mapping[str, Any]] = body.get("errors") or ()
        self.flaws = tuple(Flaw(*(str(flaw.get(key, "")) for key in Flaw._fields)) for flaw in flaws)
        # One flaw's message is the detail too.
        repeated = [flaw.message for flaw in self.flaws] == [self.detail]
        lines = [f"{self.title}: {self.detail}" if self.detail and not repeated else self.title]
        lines += [f"  {flaw.pointer or '/'}: {flaw.message}" for flaw in self.flaws]
        super().__init__("\n".join(lines))


class BadRequest(Problem):
    """The request cannot be read."""


class Unauthenticated(Problem):
    """No key, or none that is known; set `TEMPER_API_KEY`."""


class Forbidden(Problem):
    """The key lacks a scope."""


class NotFound(Problem):
    """Nothing of that name is visible with this key."""


class Conflict(Problem):
    """The resource's state forbids what was asked."""


class TooLarge(Problem):
    """A body, a file or an amount of work above its bound."""


class UnsupportedMediaType(Problem):
    """A kind of content that is not read."""


class Invalid(Problem):
    """What was sent can be read and is wrong; `flaws` point at the places."""


class TooManyRequests(Problem):
    """A rate or the queue's length is exceeded."""


class ServerError(Problem):
    """The service failed."""


class Unavailable(ServerError):
    """The service is starting, draining or lacks something it needs."""


class StorageFull(ServerError):
    """The service has no space left."""


KINDS: Mapping[int, type[Problem]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: Invalid,
    429: TooManyRequests,
    503: Unavailable,
    507: StorageFull,
}


def problem(status: int, body: Any) -> Problem:
    """The error for an answer of this status; a body that is no problem document is left out."""
    kind = KINDS.get(status, ServerError if status >= 500 else Problem)
    return kind(status, body if isinstance(body, Mapping) else {})
