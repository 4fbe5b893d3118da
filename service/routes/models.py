"""Models: listed, read, named by aliases, their files handed out, deleted."""

from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError
from sqlalchemy import Connection

from service.errors import Invalid, NotFound, invalid
from service.flaws import flaws_of
from service.inference import bags, card, exporting, weight_scaling
from service.inference.model import FILES
from service.inference.report_page import with_robustness
from service.routes import conditions
from service.routes.dependencies import Project, Services, ServicesHere, accepts_json
from service.routes.model_answers import AliasAnswer, AliasHistoryAnswer, AliasRequest, ModelAnswer, ModelPageAnswer, model_answer
from service.routes.openapi import PROBLEMS, body_of
from service.routes.queries import ListParameters
from service.routes.reading import json_body
from service.storage import datasets, gates, jobs, models
from service.storage.jobs import Filters, Job
from service.storage.models import Model
from service.values import NAME

PATH = "/api/v1/models"
MEDIA = {
    "json": "application/json",
    "svg": "image/svg+xml",
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "onnx": "application/octet-stream",
    "safetensors": "application/octet-stream",
}
KEPT = (*FILES, bags.FILE)
MADE = {exporting.FILE: exporting.onnx, weight_scaling.FILE: weight_scaling.unscaled}
"""Files that are made of a model when they are asked for."""
PLOTS = ("learning_curves", "confusion_matrix", "reliability", "ensemble", "dropout", "robustness", "features", "augmentation", "gradients")
NEEDS = {
    "learning_curves.svg": "an epoch",
    "confusion_matrix.svg": "a target of classes, and test rows with its labels",
    "reliability.svg": "labels of the first target on test rows; of numbers also quantiles or a spread, as of members or a variance",
    "ensemble.svg": "several members",
    "dropout.svg": "dropout, and test rows with labels",
    "augmentation.svg": "augmentation",
    "robustness.svg": "a robustness job",
    "features.svg": "a convolution, or a first layer that reads all pixels of an image",
    "gradients.svg": "a training that kept their norms, as it does since they are in the report",
}
"""What a picture takes."""

router = APIRouter(tags=["models"], responses=PROBLEMS)
JSONOnly = Depends(accepts_json)
CONDITIONS: dict[int | str, dict[str, Any]] = {
    206: {"description": "The bytes that `Range` names."},
    304: {"description": "What `If-None-Match` names."},
}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}, "application/json": {}, "text/markdown": {}}},
    **CONDITIONS,
}
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/svg+xml": {}}}, **CONDITIONS}


def find(services: Services, project: str, ref: str) -> Model:
    """The model of a reference; raises NotFound."""
    with services.database.read() as c:
        return models.get(c, project, ref)


@router.get(PATH, response_model=ModelPageAnswer, dependencies=[JSONOnly])
def listed(services: ServicesHere, project: Project, query: Annotated[ListParameters, Query()]) -> Response:
    """A page of the models, newest first."""
    with services.database.read() as c:
        page = models.page(c, project, limit=query.limit, cursor=query.cursor, name=query.name, labels=query.labels())
    return ModelPageAnswer(items=[model_answer(model) for model in page.items], next_cursor=page.next_cursor).respond()


@router.get(PATH + "/{ref}", response_model=ModelAnswer, dependencies=[JSONOnly])
def read(ref: str, services: ServicesHere, project: Project) -> Response:
    """A model by id, name, name:version or name@alias."""
    return model_answer(find(services, project, ref)).respond()


@router.delete(PATH + "/{ref}", status_code=204)
def delete(ref: str, services: ServicesHere, project: Project) -> Response:
    """Remove a model and its files; refused while an alias points at it."""
    with services.database.write() as c:
        model = models.delete(c, project, ref)
    services.shelf.forget(model.id)
    services.store.delete(f"models/{model.id}")
    return Response(status_code=204)


@router.get(PATH + "/{ref}/report", dependencies=[JSONOnly], response_model=dict[str, Any])
def report(ref: str, services: ServicesHere, project: Project) -> Response:
    """What was measured of the model; `robustness` is the newest robustness job's result."""
    return Response(orjson.dumps(_report(services, project, find(services, project, ref))), media_type="application/json")


def _report(services: Services, project: str, model: Model) -> dict[str, Any]:
    measured = orjson.loads(services.shelf.read(model.files["report.json"]))
    with services.database.read() as c:
        job = _newest_robustness(c, project, model)
    return {**measured, "robustness": job.result if job else None}


@router.get(PATH + "/{ref}/report.html", response_class=HTMLResponse, responses=CONDITIONS)
def report_page(ref: str, request: Request, services: ServicesHere, project: Project) -> Response:
    """The report as one self-contained page, with what the newest robustness job found."""
    model = find(services, project, ref)
    with services.database.read() as c:
        job = _newest_robustness(c, project, model)
    if job is None or job.result is None or "report.html" not in model.files:
        return _stored(model, "report.html", services, request)
    files = _with_picture(model, job).files
    svg = services.shelf.read(files["robustness.svg"]) if "robustness.svg" in files else None
    content = with_robustness(services.shelf.read(files["report.html"]), job.result, svg)
    return _answered(request, content, "report.html", digest=sha256(content).hexdigest())


@router.get(PATH + "/{ref}/plots/{name}.svg", response_class=Response, responses=PICTURE)
def plot(ref: str, name: str, request: Request, services: ServicesHere, project: Project) -> Response:
    """A picture of the report."""
    model = find(services, project, ref)
    if name not in PLOTS:
        raise NotFound(f"There is no such plot; there are {', '.join(PLOTS)}.")
    if name == "robustness":
        with services.database.read() as c:
            model = _with_picture(model, _newest_robustness(c, project, model))
    return _stored(model, f"{name}.svg", services, request)


def _newest_robustness(c: Connection, project: str, model: Model) -> Job | None:
    """The newest robustness job of the model that succeeded and reached any row: one that was stopped at once has no result."""
    page = jobs.page(c, project, limit=20, cursor=None, filters=Filters(state="succeeded", kind="robustness", model=model.id))
    return next((job for job in page.items if job.result), None)


def _with_picture(model: Model, job: Job | None) -> Model:
    """The model with the job's picture among its files."""
    record = (job.result or {}).get("picture") if job is not None else None
    if job is None or record is None:
        return model
    key = f"models/{model.id}/robustness/{job.id}.svg"
    return replace(model, files={**model.files, "robustness.svg": {**record, "key": key}})


@router.get(PATH + "/{ref}/files/{name}", response_class=Response, responses=FILE)
def file(ref: str, name: str, request: Request, services: ServicesHere, project: Project) -> Response:
    """A file of the model.

    `model.safetensors`, `spec.json`, `encoding.json` (how rows become numbers), `model.onnx` (the default predictor as one graph),
    `card.md` (what is known of the model), `bagging.safetensors` (which members had which rows), `test_time_scaling.safetensors`
    (weights of masks that are not rescaled, of a model with dropout).
    """
    model = find(services, project, ref)
    if name in KEPT:
        return _stored(model, name, services, request)
    if name == card.FILE:
        content = card.card(_facts(services, project, model), _report(services, project, model))
    elif name in MADE:
        content = MADE[name](services.shelf.get(model.id, model.files))
    else:
        raise NotFound(f"There is no such file; there are {', '.join((*KEPT, *MADE, card.FILE))}.")
    return _answered(request, content, name, digest=sha256(content).hexdigest())


def _facts(services: Services, project: str, model: Model) -> dict[str, Any]:
    """The model's row, and what is stored of its dataset, null where that is gone."""
    found = None
    with services.database.read() as c, suppress(NotFound):
        found = datasets.get(c, project, model.dataset_id) if model.dataset_id else None
    told = ("name", "format", "rows", "sha256", "builtin")
    return {**asdict(model), "dataset": {key: getattr(found, key) for key in told} if found else None}


def _stored(model: Model, name: str, services: Services, request: Request) -> Response:
    """A stored file of the model; its digest is the entity tag."""
    if name not in model.files:
        raise NotFound(f"This model has no {name}" + (f", which takes {NEEDS[name]}." if name in NEEDS else "."))
    return _answered(request, services.shelf.read(model.files[name]), name, digest=model.files[name]["sha256"])


def _answered(request: Request, content: bytes, name: str, *, digest: str) -> Response:
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
    return conditions.respond(request, content, f'"{digest}"', media_type=MEDIA[name.rsplit(".", 1)[-1]], headers=headers)


async def posted_alias(request: Request, services: ServicesHere) -> AliasRequest:
    """The body of a PUT on an alias."""
    raw = await json_body(request, services.settings.body_bytes)
    try:
        return AliasRequest.model_validate(raw)
    except ValidationError as error:
        raise Invalid(flaws_of(error, raw, model=AliasRequest)) from error


@router.put(PATH + "/{name}/aliases/{alias}", response_model=AliasAnswer, dependencies=[JSONOnly], openapi_extra=body_of(AliasRequest))
def set_alias(
    name: str, alias: str, asked: Annotated[AliasRequest, Depends(posted_alias)], services: ServicesHere, project: Project
) -> Response:
    """Point an alias at a version, if that meets what is required of it."""
    _check_names(services, project, name, alias)
    with services.database.write() as c:
        if asked.require:
            gates.check(c, project, models.get(c, project, f"{name}:{asked.version}"), asked.require)
        models.set_alias(c, project, name, alias, version=asked.version)
    return AliasAnswer(name=name, alias=alias, version=asked.version).respond()


@router.delete(PATH + "/{name}/aliases/{alias}", response_model=AliasAnswer, dependencies=[JSONOnly])
def delete_alias(name: str, alias: str, services: ServicesHere, project: Project) -> Response:
    """Remove an alias; the model stays."""
    with services.database.write() as c:
        models.delete_alias(c, project, name, alias)
    return AliasAnswer(name=name, alias=alias, version=None).respond()


@router.get(PATH + "/{name}/aliases/{alias}/history", response_model=AliasHistoryAnswer, dependencies=[JSONOnly])
def alias_history(name: str, alias: str, services: ServicesHere, project: Project) -> Response:
    """Where an alias has pointed, newest first."""
    with services.database.read() as c:
        moves = models.history(c, project, name, alias)
    if not moves:
        raise NotFound("There is no such alias.")
    return AliasHistoryAnswer.model_validate({"items": [{"version": move.version, "at": move.at} for move in moves]}).respond()


def _check_names(services: Services, project: str, name: str, alias: str) -> None:
    """A name that no model has is 404; an alias that could not be written in a reference is 422."""
    find(services, project, name if NAME.fullmatch(name) else "")
    if not NAME.fullmatch(alias):
        raise invalid("/alias", "invalid-name", "aliases match [a-z0-9][a-z0-9._-]{0,63}")
