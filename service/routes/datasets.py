"""Datasets: uploaded in a stream, listed, looked into, deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from service.data.columns import stored
from service.data.ingest import ingest
from service.data.staging import Staged, dataset_key, refuse_full
from service.errors import Flaw, Invalid, TooLarge, invalid
from service.flaws import pointer
from service.routes import uploads
from service.routes.answers import DatasetAnswer, PageAnswer, RowsAnswer, dataset_answer
from service.routes.dependencies import Project, Services, ServicesHere, accepts_json
from service.routes.idempotency import Once, digest_of, replayed
from service.routes.openapi import PROBLEMS
from service.routes.queries import ListParameters, Parameters
from service.storage import datasets, models
from service.storage.datasets import DatasetDraft
from service.storage.idempotency import Kept
from service.values import NAME

router = APIRouter(
    prefix="/api/v1/datasets",
    tags=["datasets"],
    dependencies=[Depends(accepts_json)],
    responses=PROBLEMS,
)
MOST_LABELS = 32
MOST_LABEL_CHARACTERS = 256
FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "name"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "CSV, Parquet or NPZ."},
                    "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                    "schema": {"type": "string", "contentMediaType": "application/json"},
                    "labels": {"type": "string", "contentMediaType": "application/json"},
                    "sha256": {"type": "string", "description": "What the file's SHA-256 has to be, in hex."},
                },
            }
        }
    },
}


class RowsParameters(Parameters):
    """Which rows."""

    offset: Annotated[int, Field(ge=0, le=2**62)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 50


@router.post("", status_code=201, response_model=DatasetAnswer, openapi_extra={"requestBody": FORM})
async def create(request: Request, services: ServicesHere, project: Project) -> Response:
    """Store a dataset; the body is received in a stream and never held in memory."""
    limit = services.settings.upload_bytes
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    if size > limit + uploads.OVERHEAD_BYTES:
        raise TooLarge(f"The body is larger than {limit} bytes.")
    refuse_full(services.store, size)
    await run_in_threadpool(_refuse_over_quota, services, project, size)
    once = Once(services.database, request, project)
    before = await run_in_threadpool(once.begin)
    async with once.held():
        staged = Staged(services.store, limit)
        try:
            form = await uploads.receive(request, staged, limit)
            if before is not None:
                return await run_in_threadpool(_again, before, staged, form)
            return await run_in_threadpool(_store, services, project, staged, form, once)
        except BaseException:
            await run_in_threadpool(staged.discard)
            raise


@router.get("", response_model=PageAnswer[DatasetAnswer])
def listed(query: Annotated[ListParameters, Query()], services: ServicesHere, project: Project) -> Response:
    """A page of the datasets, newest first."""
    with services.database.read() as c:
        page = datasets.page(c, project, limit=query.limit, cursor=query.cursor, name=query.name, labels=query.labels())
    items = [dataset_answer(dataset) for dataset in page.items]
    return PageAnswer[DatasetAnswer](items=items, next_cursor=page.next_cursor).respond()


@router.get("/{ref}", response_model=DatasetAnswer)
def read(ref: str, services: ServicesHere, project: Project) -> Response:
    """The dataset of an id, or the newest of a name."""
    with services.database.read() as c:
        dataset = datasets.get(c, project, ref)
    return dataset_answer(dataset).respond()


@router.get("/{ref}/rows", response_model=RowsAnswer)
def rows(ref: str, query: Annotated[RowsParameters, Query()], services: ServicesHere, project: Project) -> Response:
    """A page of the dataset's rows."""
    with services.database.read() as c:
        dataset = datasets.get(c, project, ref)
    items: list[Any] = stored(services.store, dataset.id).rows_page(query.offset, query.limit)
    return RowsAnswer(items=items, offset=query.offset, limit=query.limit, total=dataset.rows).respond()


@router.delete("/{ref}", status_code=204)
def delete(ref: str, services: ServicesHere, project: Project) -> Response:
    """Remove a dataset that no job uses; models trained on it stay."""
    with services.database.write() as c:
        dataset = datasets.delete(c, project, ref)
    services.store.delete(dataset_key(dataset.id))
    return Response(status_code=204)


def _store(services: Services, project: str, staged: Staged, form: uploads.Form, once: Once) -> Response:
    """Read what was received, put it where datasets lie, and make it visible; the answer tells of it."""
    name, labels = _name(form), _labels(form)
    staged.close()
    description = ingest(staged.source, staged.path, form.value("schema"), origin=form.origin)
    draft = DatasetDraft(
        id=staged.publish(), name=name, format=description.format, rows=description.rows, size=staged.size, sha256=staged.sha256,
        description=description.dump(), labels=labels,
    )  # fmt: skip
    with services.database.write() as c:
        dataset = datasets.insert(c, project, draft)
        response = dataset_answer(dataset).respond(201, Location=f"/api/v1/datasets/{dataset.id}")
        once.keep(_digest(staged, form))(c, response)
    return response


def _again(before: Kept, staged: Staged, form: uploads.Form) -> Response:
    """The answer that the same upload was given before; raises IdempotencyMismatch."""
    staged.close()
    response = replayed(before, _digest(staged, form))
    staged.discard()
    return response


def _digest(staged: Staged, form: uploads.Form) -> str:
    return digest_of(staged.sha256, form.text("name"), form.value("schema"), form.value("labels"))


def _refuse_over_quota(services: Services, project: str, size: int) -> None:
    """Raises TooLarge quota-exceeded where the project would hold more than it may."""
    most = services.settings.project_bytes
    if not most:
        return
    with services.database.read() as c:
        held = datasets.held_bytes(c, project) + models.held_bytes(c, project)
    if held + size > most:
        raise TooLarge(f"The project holds {held} bytes of {most}; {size} more do not fit.", slug="quota-exceeded")


def _name(form: uploads.Form) -> str:
    name = form.text("name")
    if name is None:
        raise invalid("/name", "missing-field", "this part is required")
    if not NAME.fullmatch(name):
        raise invalid("/name", "invalid-name", f"a name matches {NAME.pattern}")
    return name


def _labels(form: uploads.Form) -> dict[str, str]:
    """The labels that were sent: at most 32 pairs of strings of at most 256 characters."""
    raw = form.value("labels")
    if raw is None:
        return {}
    if not isinstance(raw, dict) or len(raw) > MOST_LABELS:
        raise invalid("/labels", "wrong-type", f"labels are an object of at most {MOST_LABELS} strings")
    flaws = [
        Flaw(pointer("labels", key), "wrong-type", f"a label is a string of at most {MOST_LABEL_CHARACTERS} characters")
        for key, value in raw.items()
        if not isinstance(value, str) or max(len(key), len(value)) > MOST_LABEL_CHARACTERS
    ]
    if flaws:
        raise Invalid(flaws)
    return raw
