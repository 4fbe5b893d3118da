"""What a job left behind: its series as JSON or CSV, its log as text."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from service.flaws import cut
from service.routes import series
from service.routes.answers import SeriesAnswer, rfc3339
from service.routes.dependencies import CSV, JSON, Project, Services, ServicesHere, chosen
from service.routes.openapi import PROBLEMS
from service.routes.queries import Parameters, Text
from service.storage import jobs, logs, metrics

PATH = "/api/v1/jobs/{job_id}"
TEXT = "text/plain"
LINE = 10_000


class SeriesParameters(Parameters):
    """Which series, and how many points of each; minima and maxima are kept."""

    name: Text | None = None
    member: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    downsample: Annotated[int, Field(ge=4, le=100_000)] | None = None


router = APIRouter(tags=["jobs"], responses=PROBLEMS)


@router.get(PATH + "/metrics", response_model=SeriesAnswer, responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}})
def read_metrics(
    job_id: str, query: Annotated[SeriesParameters, Query()], request: Request, services: ServicesHere, project: Project
) -> Response:
    """The job's series as columns; as CSV where that is what the caller accepts."""
    media_type = chosen(request, (JSON, CSV))
    with services.database.read() as c:
        jobs.get(c, project, job_id)
        rows = metrics.read(c, project, job_id, name=query.name, member=query.member)
    if query.downsample is not None:
        rows = series.thinned(rows, query.downsample)
    if media_type == CSV:
        attached = {"Content-Disposition": f'attachment; filename="{job_id}.csv"'}
        return StreamingResponse(series.table(rows), media_type=CSV, headers=attached)
    return series.columns(rows).respond()


@router.get(PATH + "/logs", response_class=StreamingResponse, responses={200: {"content": {TEXT: {"schema": {"type": "string"}}}}})
def read_logs(job_id: str, request: Request, services: ServicesHere, project: Project) -> Response:
    """The job's log, one line per message."""
    media_type = chosen(request, (TEXT,))
    with services.database.read() as c:
        jobs.get(c, project, job_id)
    return StreamingResponse(_lines(services, project, job_id), media_type=f"{media_type}; charset=utf-8")


def _lines(services: Services, project: str, job_id: str) -> Iterator[str]:
    last = 0
    while True:
        with services.database.read() as c:
            lines = logs.read(c, project, job_id, after=last)
        if not lines:
            return
        yield "".join(f"{rfc3339(line.at)} {line.level.upper():7} [{line.shard}] {cut(line.message, LINE)}\n" for line in lines)
        last = lines[-1].id
