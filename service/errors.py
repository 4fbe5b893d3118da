"""Every error that a caller can cause or meet, each with its HTTP status and problem slug.

TemperError
├── MalformedJSON 400 malformed-json          ├── UnsupportedMediaType 415 unsupported-media-type
│   ├── JSONTooDeep 400 json-too-deep         ├── Invalid 422 validation-error (or the flaws' common slug)
│   └── DuplicateKey 400 duplicate-key        ├── ModeUnavailable 422 mode-unavailable
├── BadRequest 400 bad-request                ├── Busy 429 overloaded
├── BadCursor 400 bad-cursor                  ├── DependencyUnavailable 503 dependency-unavailable
├── NotFound 404 not-found                    ├── ArtifactCorrupt 503 artifact-corrupt
├── Conflict 409 (slug given)                 ├── StorageFull 507 storage-full
├── TooLarge 413 (slug given)                 ├── Unauthenticated 401 unauthenticated
├── RateLimited 429 rate-limited              ├── Forbidden 403 forbidden
├── QueueFull 429 queue-full                  ├── BadIdempotencyKey 400 bad-idempotency-key
└── IdempotencyInProgress 409                 └── IdempotencyMismatch 422 idempotency-mismatch
"""

from collections.abc import Sequence
from typing import NamedTuple

# Flaws whose common code is one of these name the whole problem.
SPECIFIC = frozenset(
    {
        "unknown-field", "out-of-range", "value-out-of-range", "cost-limit", "unknown-choice", "inconsistent-spec",
        "invalid-name", "device-unavailable", "not-found", "invalid-data", "ragged", "non-finite", "forbidden-pickle",
        "corrupt-array", "corrupt-file", "bad-multipart", "shape-mismatch", "mode-unavailable", "breaks-invariance",
        "unknown-category", "missing-value", "digest-mismatch",
    }
)  # fmt: skip


class Flaw(NamedTuple):
    """One thing that is wrong: a JSON pointer (RFC 6901) into what was sent, a code and a sentence."""

    pointer: str
    code: str
    message: str


class TemperError(Exception):
    """The root: `status`, `slug` and `title` belong to the class, `detail` to the case."""

    status = 500
    slug = "internal-error"
    title = "Internal error"
    retry_after_s: int | None = None

    def __init__(self, detail: str = "", *, flaws: Sequence[Flaw] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.flaws = tuple(flaws)


class MalformedJSON(TemperError):
    """The body is not JSON as RFC 8259 has it."""

    status, slug, title = 400, "malformed-json", "Malformed JSON"


class JSONTooDeep(MalformedJSON):
    """Arrays and objects nest deeper than 32."""

    slug, title = "json-too-deep", "JSON nested too deeply"


class DuplicateKey(MalformedJSON):
    """An object names a key twice."""

    slug, title = "duplicate-key", "Duplicate key"


class BadRequest(TemperError):
    """The request cannot be read at the level of HTTP."""

    status, slug, title = 400, "bad-request", "Bad request"


class BadCursor(TemperError):
    """A list's cursor was not made by this service."""

    status, slug, title = 400, "bad-cursor", "Bad cursor"


class NotFound(TemperError):
    """Nothing of that name is visible to the caller."""

    status, slug, title = 404, "not-found", "Not found"


class Conflict(TemperError):
    """The resource's state forbids what was asked; the slug says which state."""

    status, slug, title = 409, "conflict", "Conflict"

    def __init__(self, slug: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = slug.replace("-", " ").capitalize()


class TooLarge(TemperError):
    """A body, a file or an amount of work above its bound."""

    status, slug, title = 413, "payload-too-large", "Payload too large"

    def __init__(self, detail: str, *, slug: str = "payload-too-large") -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = slug.replace("-", " ").capitalize()


class Unauthenticated(TemperError):
    """No key, or one that does not hold: unknown, expired and revoked ones look alike."""

    status, slug, title = 401, "unauthenticated", "Unauthenticated"


class Forbidden(TemperError):
    """The key does not have the scope."""

    status, slug, title = 403, "forbidden", "Forbidden"


class RateLimited(TemperError):
    """The key sends more requests than it may."""

    status, slug, title = 429, "rate-limited", "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QueueFull(TemperError):
    """The project has as many unfinished jobs as it may."""

    status, slug, title, retry_after_s = 429, "queue-full", "Queue full", 10


class BadIdempotencyKey(TemperError):
    """An Idempotency-Key that is none."""

    status, slug, title = 400, "bad-idempotency-key", "Bad Idempotency-Key"


class IdempotencyInProgress(TemperError):
    """A request with the same Idempotency-Key has not been answered yet."""

    status, slug, title, retry_after_s = 409, "idempotency-in-progress", "Idempotency in progress", 1


class IdempotencyMismatch(TemperError):
    """The Idempotency-Key belongs to another body."""

    status, slug, title = 422, "idempotency-mismatch", "Idempotency mismatch"


class UnsupportedMediaType(TemperError):
    """The content's type is not one that is read here."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class Invalid(TemperError):
    """What was sent can be read and is wrong; each flaw points at its place.

    Flaws that agree give the whole its slug, else it is `validation-error`.
    """

    status, slug, title = 422, "validation-error", "Validation error"

    def __init__(self, flaws: Sequence[Flaw]) -> None:
        super().__init__(flaws[0].message if len(flaws) == 1 else f"{len(flaws)} errors", flaws=flaws)
        codes = {flaw.code for flaw in flaws}
        if len(codes) == 1 and codes <= SPECIFIC:
            self.slug = codes.pop()
            self.title = self.slug.replace("-", " ").capitalize()


class ModeUnavailable(TemperError):
    """The model cannot be asked in this way."""

    status, slug, title = 422, "mode-unavailable", "Mode unavailable"


class Busy(TemperError):
    """More work than this process takes at once."""

    status, slug, title, retry_after_s = 429, "overloaded", "Overloaded", 1


class DependencyUnavailable(TemperError):
    """The database or the storage does not answer."""

    status, slug, title, retry_after_s = 503, "dependency-unavailable", "Dependency unavailable", 2


class ArtifactCorrupt(TemperError):
    """A stored file does not have the bytes that were written."""

    status, slug, title, retry_after_s = 503, "artifact-corrupt", "Artifact corrupt", 60


class StorageFull(TemperError):
    """No space is left for what was to be kept."""

    status, slug, title = 507, "storage-full", "Storage full"


def invalid(pointer: str, code: str, message: str) -> Invalid:
    """An `Invalid` of one flaw."""
    return Invalid([Flaw(pointer, code, message)])


def unavailable(pointer: str, message: str) -> ModeUnavailable:
    """A `ModeUnavailable` with the place of the request that the model has no answer to."""
    return ModeUnavailable(message, flaws=[Flaw(pointer, ModeUnavailable.slug, message)])
