"""A short page for every problem: what happened and what to do."""

from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from service.errors import NotFound

router = APIRouter(tags=["problems"])

# A table: one line per slug.
PAGES = {
    "alias-gate-failed": "The model does not meet a requirement of the alias. The alias still names the version it named before.",
    "model-in-use": "A job that has not ended starts from this model, is tied to it or attacks it. Wait for it, or cancel it.",
    "model-deleted": "A stored model that the job refers to was deleted. Name another one.",
    "alias-in-use": "An alias names this model. Let it name another version, or remove it, then delete the model.",
    "already-terminal": "The job has ended, and an ended job cannot be stopped or cancelled.",
    "artifact-corrupt": "A stored file does not have the bytes that were written. The operator has to restore it.",
    "bad-idempotency-key": "An Idempotency-Key is 1 to 255 printable ASCII characters.",
    "forbidden": "The key does not have the scope that this needs: `read`, `predict`, `train` or `admin`.",
    "idempotency-in-progress": "A request with this Idempotency-Key is under way. Ask again after `Retry-After` seconds.",
    "idempotency-mismatch": "This Idempotency-Key was used with another body. Take a new key for a new request.",
    "queue-full": "The project has as many unfinished jobs as it may. Try again after `Retry-After` seconds.",
    "quota-exceeded": "The project holds as many bytes as it may. Delete datasets or models.",
    "rate-limited": "The key sends more requests than it may. Try again after `Retry-After` seconds.",
    "unauthenticated": "Send a key that holds as `Authorization: Bearer …`; `temper keys create` makes one.",
    "bad-cursor": "The cursor was not made by this list. Send `next_cursor` of the page before, unchanged.",
    "bad-multipart": "The upload is not multipart/form-data with one `file`, a `name` and at most `schema`, `labels` and `sha256`.",
    "bad-range": "The file has no such bytes; `Content-Range` says how many it has.",
    "bad-request": "The request cannot be read as HTTP.",
    "breaks-invariance": "The augmentation goes beyond what the dataset declares to keep a row's meaning.",
    "conflict": "The state of the resource forbids this.",
    "corrupt-array": "An array's header does not agree with its bytes.",
    "corrupt-file": "The file cannot be read in the format that its content announces.",
    "cost-limit": "The work exceeds a limit of this service; the message has the numbers, the catalog the limits.",
    "dataset-builtin": "Built-in datasets stay.",
    "dataset-deleted": "The dataset that the job needs was deleted.",
    "dataset-in-use": "A job that has not ended uses the dataset. Wait for it or cancel it.",
    "decompressed-too-large": "The file is small, what it decodes to is not.",
    "dependency-unavailable": "The database or the storage does not answer. Try again after `Retry-After` seconds.",
    "device-unavailable": "The named device does not exist here.",
    "duplicate-key": "An object names a key twice, so that it does not say which of the two is meant.",
    "forbidden-pickle": "The array holds Python objects, which could run code when read. Save numbers instead.",
    "header-too-large": "The header fields are larger than 16 KB.",
    "inconsistent-spec": "Two parts of the spec contradict each other, or the dataset.",
    "internal-error": "The service failed. The log has the cause under the answer's `request_id`.",
    "invalid-data": "The data cannot be used as it is; the message names the place.",
    "invalid-name": "Names match [a-z0-9][a-z0-9._-]{0,63} and do not start with ds_, job_, mdl_ or key_.",
    "job-running": "The job has not ended. Cancel it first.",
    "json-too-deep": "Arrays and objects nest deeper than 32.",
    "malformed-json": "The body is not JSON: RFC 8259 knows no NaN, no Infinity, no comments and no second value.",
    "method-not-allowed": "The resource has no such method; `Allow` names those it has.",
    "missing-value": "A value is missing where the model was told to refuse that.",
    "mode-unavailable": "The model cannot be asked in this mode; the message says why.",
    "non-finite": "NaN or an infinity stands where a number is needed.",
    "not-acceptable": "None of the media types in `Accept` is offered.",
    "not-exportable": "The model has a part that this release cannot write as ONNX; `model.safetensors` has its weights.",
    "not-found": "There is nothing of that name, or it belongs to another project.",
    "not-retryable": "Only a failed or cancelled job can be tried again.",
    "not-running": "The job waits. Only a running job can be stopped; a waiting one can be cancelled.",
    "out-of-range": "The number is larger than a double holds.",
    "overloaded": "More connections or requests are under way than this process takes. Try again after `Retry-After` seconds.",
    "payload-too-large": "The body is larger than this route takes; the catalog has the bounds.",
    "precondition-failed": "The file is not the one that `If-Match` names.",
    "ragged": "A row has another number of cells than the first line.",
    "request-timeout": "The request stopped coming for 10 seconds.",
    "shape-mismatch": "The values do not have the shape that the model was trained on.",
    "storage-full": "No space is left. Delete datasets, jobs or models, or add space.",
    "digest-mismatch": "The file that came is not the one whose SHA-256 was sent. Send it again.",
    "diverged": "The loss became infinite or not a number before any epoch was worth keeping. Lower the learning rate.",
    "out-of-memory": "The trainer needed more memory than it may have. Take a smaller network, batch or dataset.",
    "stalled": "The trainer made no progress for `limits.stall_s` seconds and was ended.",
    "training-failed": "The trainer ended with an error of its own; the job's log names it.",
    "trainer-killed": "The trainer was killed by a signal, more often than an attempt may be repeated.",
    "trainer-lost": "The trainer ended without a word, more often than an attempt may be repeated.",
    "worker-fault": "The worker failed while it ran the job. Its log has the cause.",
    "worker-lost": "The worker that ran the job was lost, more often than an attempt may be repeated.",
    "unknown-category": "The model never saw this category and was told to refuse unknown ones.",
    "unknown-choice": "There is no such choice; the message lists what there is.",
    "unknown-field": "There is no such field; the message names the nearest one.",
    "unsupported-media-type": "The content has a media type, a charset or an encoding that is not read here.",
    "uri-too-long": "The address is longer than 8 KB.",
    "validation-error": "What was sent can be read and is wrong; each entry of `errors` points at its place.",
    "value-out-of-range": "The value lies outside the range that the field allows.",
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""


@router.get("/problems/{slug}", response_class=HTMLResponse)
async def page(slug: str) -> HTMLResponse:
    """What a problem's `type` leads to."""
    if slug not in PAGES:
        raise NotFound("There is no such problem.")
    return HTMLResponse(PAGE.format(title=escape(slug.replace("-", " ").capitalize()), text=escape(PAGES[slug])))
