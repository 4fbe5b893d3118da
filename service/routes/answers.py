"""The shapes of answers, declared once for the code and for OpenAPI."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi.responses import Response
from pydantic import BaseModel, PlainSerializer, WithJsonSchema

from service.data.fields import Audit, Description, Kind
from service.storage.datasets import Dataset
from service.storage.jobs import Job

Item = TypeVar("Item")


def rfc3339(seconds: float) -> str:
    """Epoch seconds as UTC, as in 2026-01-31T12:00:00.125Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[float, PlainSerializer(rfc3339, return_type=str), WithJsonSchema({"type": "string", "format": "date-time"})]


class Answer(BaseModel):
    """A JSON object that a route answers with."""

    def respond(self, status: int = 200, **headers: str) -> Response:
        """The object as a response; underscores in header names are hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Response(self.model_dump_json(), status_code=status, headers=named, media_type="application/json")


class PageAnswer(Answer, Generic[Item]):
    """A piece of a list, newest first; `next_cursor` is null at its end."""

    items: list[Item]
    next_cursor: str | None


class ClassAnswer(BaseModel):
    """A class and how many rows have it."""

    value: str
    count: int


class FieldAnswer(BaseModel):
    """A field and its statistics; `std` is the population's."""

    name: str
    kind: Kind
    shape: list[int]
    dtype: str
    missing: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    classes: list[ClassAnswer] | None


class DatasetAnswer(Answer):
    """A stored dataset."""

    id: str
    name: str
    format: str
    rows: int
    size: int
    sha256: str
    builtin: bool
    labels: dict[str, str]
    created_at: Time
    fields: list[FieldAnswer]
    targets: list[str]
    splits: dict[str, int] | None
    split_column: str | None
    missing: str | None
    invariances: dict[str, Any] | None
    audit: Audit
    links: dict[str, str]


class RowAnswer(BaseModel):
    """A row: its zero-based number and its value per field, null where missing."""

    row: int
    values: dict[str, Any]


class RowsAnswer(Answer):
    """A page of rows, empty past the end."""

    items: list[RowAnswer]
    offset: int
    limit: int
    total: int


class ProgressAnswer(BaseModel):
    """How far a job is; for an ensemble `epoch` is the running members' mean, rounded down."""

    fraction: float
    epoch: int | None
    epochs: int | None
    members_done: int
    members: int
    eta_s: float | None


class JobAnswer(Answer):
    """A job; `state` drives logic, `phase` and `reason` are for people."""

    id: str
    kind: str
    name: str
    state: str
    done: bool
    phase: str | None
    reason: str | None
    version: int
    attempt: int
    priority: int
    spec: dict[str, Any]
    labels: dict[str, str]
    created_at: Time
    started_at: Time | None
    heartbeat_at: Time | None
    finished_at: Time | None
    queue_position: int | None
    progress: ProgressAnswer
    best: dict[str, Any] | None
    stop_reason: str | None
    model: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    links: dict[str, str]


class LayerAnswer(BaseModel):
    """A named layer, the shape of its output for one row and its parameters."""

    name: str
    type: str
    shape: list[int]
    parameters: int


class WarningAnswer(BaseModel):
    """Something in a spec that is taken, though it may not be meant."""

    pointer: str
    code: str
    message: str


class PlanAnswer(Answer):
    """What a job would be: nothing was started."""

    spec: dict[str, Any]
    layers: list[LayerAnswer]
    parameters: int
    saved_by_tying: int
    unshared: int
    saved_by_sharing: int
    memory_bytes: int
    flops: int
    steps: int
    shards: int
    warnings: list[WarningAnswer]


class SeriesAnswer(Answer):
    """Values of a job's series as columns of one length; null where a value was not finite."""

    epoch: list[int]
    member: list[int]
    name: list[str]
    value: list[float | None]


class ProblemAnswer(Answer):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[WarningAnswer] | None = None


def dataset_answer(dataset: Dataset) -> DatasetAnswer:
    """The dataset as callers see it."""
    known = Description.model_validate(dataset.description).public()
    here = f"/api/v1/datasets/{dataset.id}"
    own = {name: getattr(dataset, name) for name in ("id", "name", "format", "rows", "size", "sha256", "builtin", "labels", "created_at")}
    return DatasetAnswer.model_validate({**known, **own, "links": {"self": here, "rows": f"{here}/rows"}})


def job_answer(job: Job, queue_position: int | None) -> JobAnswer:
    """The job as callers see it."""
    here = f"/api/v1/jobs/{job.id}"
    links = {"self": here, "events": f"{here}/events", "metrics": f"{here}/metrics", "logs": f"{here}/logs"}
    if job.model_id is not None:
        links["model"] = f"/api/v1/models/{job.model_id}"
    own = {name: getattr(job, name, None) for name in JobAnswer.model_fields}
    return JobAnswer.model_validate({**own, "model": job.model_id, "queue_position": queue_position, "links": links})
