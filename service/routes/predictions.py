"""Predictions, attacks and projections at once: rows in, columns out."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import orjson
import torch
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import ValidationError

from service.errors import Invalid, TooLarge, invalid
from service.flaws import flaws_of
from service.inference import attacking, projecting
from service.inference.asking import networks_asked
from service.inference.attacking import AttackRequest, echo
from service.inference.model import Model
from service.inference.predicting import PredictRequest, predict
from service.inference.projecting import ProjectRequest
from service.inference.rows import read_rows
from service.inference.smoothed import check_smoothing, smooth
from service.routes.dependencies import Project, ServicesHere, accepts_json, place
from service.routes.models import PATH, find
from service.routes.openapi import PROBLEMS, body_of
from service.routes.prediction_answers import AttackAnswer, PredictionAnswer, ProjectionAnswer
from service.routes.reading import json_body
from service.tricks.modes import Axes
from service.values import Value

MOST_ANSWERS = 20_000_000
"""Rows times networks asked of one answer."""
MOST_COPIES = 2_000_000
"""Rows times noisy copies times networks asked of one answer."""
MOST_NUMBERS = 5_000_000
"""Numbers in one answer that keeps what every network said."""

Asked = TypeVar("Asked", bound=Value)
router = APIRouter(
    tags=["predictions"],
    dependencies=[Depends(accepts_json), Depends(place)],
    responses=PROBLEMS,
)


def _read(kind: type[Asked], raw: Any) -> Asked:
    """A request as its value; raises Invalid."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise Invalid(flaws_of(error, raw, model=kind)) from error


async def posted(request: Request, services: ServicesHere) -> Any:
    """The JSON of a request with rows."""
    return await json_body(request, services.settings.predict_bytes)


Posted = Annotated[Any, Depends(posted)]


@router.post(PATH + "/{ref}/predict", response_model=PredictionAnswer, openapi_extra=body_of(PredictRequest))
def predicted(ref: str, raw: Posted, services: ServicesHere, project: Project) -> Response:
    """What the model says of rows, at a mode or a point on its axes."""
    row = find(services, project, ref)
    asked = _read(PredictRequest, raw)
    model = services.shelf.get(row.id, row.files)
    axes = asked.axes(model)
    if axes.samples > services.settings.max_samples:
        raise invalid("/samples", "value-out-of-range", f"at most {services.settings.max_samples} samples")
    rows = read_rows(asked.inputs, model.encoding, most=services.settings.max_rows)
    if asked.smoothing is not None:
        _check_smoothed(model, axes, asked, services.settings.max_samples)
    _affordable(model, axes, asked, len(rows))
    head = {"model": row.id, "name": row.name, "version": row.version, "mode": axes.mode, **echo(axes), "rows": len(rows)}
    if asked.smoothing is not None:
        head["smoothing"], targets = asked.smoothing.dump(), smooth(model, torch.from_numpy(rows), axes, asked.smoothing)
    else:
        wanted = {"level": asked.level, "false_alarm_rate": asked.false_alarm_rate}
        targets = predict(model, torch.from_numpy(rows), axes, parts=asked.parts, **wanted)
    return Response(orjson.dumps({**head, "targets": targets}), media_type="application/json")


def _check_smoothed(model: Model, axes: Axes, asked: PredictRequest, most: int) -> None:
    """Raises Invalid where there is no smoothed classifier, or something is asked of it that it does not say, or too many copies."""
    if asked.smoothing is not None and asked.smoothing.n > most:
        raise invalid("/smoothing/n", "value-out-of-range", f"at most {most} copies")
    if asked.parts:
        raise invalid("/return/0", "inconsistent-spec", "with smoothing an answer has the class, its radius and probability_lower")
    check_smoothing(model, axes)


@router.post(PATH + "/{ref}/attack", response_model=AttackAnswer, openapi_extra=body_of(AttackRequest))
def attacked(ref: str, raw: Posted, services: ServicesHere, project: Project) -> Response:
    """Rows moved against the deployed predictor, and what it says of them then."""
    return _answered(AttackRequest, attacking.answer, ref, raw, services, project)


@router.post(PATH + "/{ref}/project", response_model=ProjectionAnswer, openapi_extra=body_of(ProjectRequest))
def projected(ref: str, raw: Posted, services: ServicesHere, project: Project) -> Response:
    """The strongest units of a convolution on rows, projected back to what they saw there."""
    return _answered(ProjectRequest, projecting.answer, ref, raw, services, project)


def _answered(kind: type[Any], answer: Callable[..., Any], ref: str, raw: Posted, services: ServicesHere, project: Project) -> Response:
    """What the model says to a request of that kind."""
    row = find(services, project, ref)
    asked = _read(kind, raw)
    said = answer(services.shelf.get(row.id, row.files), asked, most_rows=services.settings.max_rows)
    return Response(orjson.dumps({"model": row.id, "name": row.name, "version": row.version, **said}), media_type="application/json")


def _affordable(model: Model, axes: Axes, asked: PredictRequest, rows: int) -> None:
    """Raises TooLarge where one answer would be too much work or too many numbers."""
    copies = asked.smoothing.copies if asked.smoothing is not None else 1
    if copies > 1 and rows * copies * networks_asked(model, axes) > MOST_COPIES:
        raise TooLarge(f"{rows} rows in {copies} noisy copies are too much for one answer; send fewer rows.", slug="cost-limit")
    networks = networks_asked(model, axes)
    width = sum(model.networks[0].spec.widths)
    if rows * networks > MOST_ANSWERS or ("members" in (asked.parts or ()) and rows * networks * width > MOST_NUMBERS):
        raise TooLarge(
            f"{rows} rows asked of {networks} networks are too much for one answer; send fewer rows or samples.", slug="cost-limit"
        )
