"""Jobs: checked, queued, waited for, stopped, cancelled, listed, deleted."""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from service.routes.answers import JobAnswer, PageAnswer, PlanAnswer, job_answer
from service.routes.dependencies import Project, Services, ServicesHere, accepts_json
from service.routes.idempotency import Keep, Once, answered_once, digest_of
from service.routes.openapi import PROBLEMS, spec_body
from service.routes.planning import accept, validated
from service.routes.queries import ListParameters, Parameters, Text
from service.routes.reading import json_body
from service.routes.watching import set_within
from service.storage import jobs
from service.storage.jobs import Filters, Job

PATH = "/api/v1/jobs"
GONE_S = 1.0
"""How late a caller that went away is noticed."""


class JobsParameters(ListParameters):
    """Which jobs."""

    state: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"] | None = None
    kind: Text | None = None


class WaitParameters(Parameters):
    """How long to hold the answer."""

    wait: Annotated[float, Field(ge=0, le=60, description="Seconds to hold the answer.")] = 0
    since: Annotated[int, Field(ge=0, le=2**63 - 1, description="Answer once `version` is above it.")] = 0


router = APIRouter(
    tags=["jobs"],
    dependencies=[Depends(accepts_json)],
    responses=PROBLEMS,
)


async def posted(request: Request, services: ServicesHere) -> Any:
    """The JSON of a posted spec."""
    return await json_body(request, services.settings.body_bytes)


Posted = Annotated[Any, Depends(posted)]


@router.post(PATH + ":validate", response_model=PlanAnswer, openapi_extra=spec_body())
def validate(raw: Posted, services: ServicesHere, project: Project) -> Response:
    """What a job of this spec would be and cost; nothing is started."""
    return validated(raw, services, project).respond()


@router.post(PATH, status_code=202, response_model=JobAnswer, openapi_extra=spec_body())
def create(raw: Posted, request: Request, services: ServicesHere, project: Project) -> Response:
    """Queue a job; its spec is checked whole, against the dataset too, before it is accepted."""

    def work(keep: Keep) -> Response:
        return accept(raw, services, project, partial(_accepted, keep), traceparent=request.state.traceparent)

    return answered_once(Once(services.database, request, project), digest_of(raw), work)


@router.get(PATH, response_model=PageAnswer[JobAnswer])
def listed(query: Annotated[JobsParameters, Query()], services: ServicesHere, project: Project) -> Response:
    """A page of the jobs, newest first."""
    filters = Filters(state=query.state, kind=query.kind, name=query.name, labels=query.labels())
    with services.database.read() as c:
        page = jobs.page(c, project, limit=query.limit, cursor=query.cursor, filters=filters)
        items = [job_answer(job, jobs.queue_position(c, job)) for job in page.items]
    return PageAnswer[JobAnswer](items=items, next_cursor=page.next_cursor).respond()


@router.get(PATH + "/{job_id}", response_model=JobAnswer)
async def read(
    job_id: str, query: Annotated[WaitParameters, Query()], request: Request, services: ServicesHere, project: Project
) -> Response:
    """The job, held until its version is above `since`, it has ended or the time is up."""
    if not query.wait:
        return await run_in_threadpool(_read, services, project, job_id)
    clock = asyncio.get_running_loop().time
    until = clock() + query.wait
    job = await run_in_threadpool(_job, services, project, job_id)
    with services.watch.channel(project, job_id) as channel:
        while not job.done and job.version <= query.since and (left := until - clock()) > 0:
            signal = channel.signal
            if channel.gone or channel.version > job.version:
                job = await run_in_threadpool(_job, services, project, job_id)
            elif services.watch.closed or (not await set_within(signal, min(left, GONE_S)) and await request.is_disconnected()):
                break
    return await run_in_threadpool(_answer, services, job)


@router.post(PATH + "/{job_id}/stop", status_code=202, response_model=JobAnswer)
def stop(job_id: str, services: ServicesHere, project: Project) -> Response:
    """Ask a running job to finish now with its best weights."""
    with services.database.write() as c:
        jobs.stop(c, project, job_id)
        job = jobs.get(c, project, job_id)
    services.doorbell.ring()
    return _answer(services, job, 202)


@router.post(PATH + "/{job_id}/cancel", status_code=202, response_model=JobAnswer, responses={200: {"model": JobAnswer}})
def cancel(job_id: str, services: ServicesHere, project: Project) -> Response:
    """End a job `cancelled`; 200 when it already was."""
    with services.database.write() as c:
        asked = jobs.cancel(c, project, job_id)
        job = jobs.get(c, project, job_id)
    return _answer(services, job, 202 if asked else 200)


@router.post(PATH + "/{job_id}/retry", status_code=202, response_model=JobAnswer)
def retry(job_id: str, services: ServicesHere, project: Project) -> Response:
    """Let a failed or cancelled job go on from its last checkpoint."""
    with services.database.write() as c:
        jobs.retry(c, project, job_id)
        job = jobs.get(c, project, job_id)
    services.doorbell.ring()
    return _answer(services, job, 202)


@router.delete(PATH + "/{job_id}", status_code=204)
def delete(job_id: str, services: ServicesHere, project: Project) -> Response:
    """Remove a job that has ended, with its history and checkpoints; its model stays."""
    with services.database.write() as c:
        jobs.delete(c, project, job_id)
    services.store.delete(f"jobs/{job_id}")
    return Response(status_code=204)


def _accepted(keep: Keep, c: Connection, job: Job, place: int | None) -> Response:
    """The answer to a posted job, kept with it."""
    response = job_answer(job, place).respond(202, Location=f"{PATH}/{job.id}")
    keep(c, response)
    return response


def _job(services: Services, project: str, job_id: str) -> Job:
    with services.database.read() as c:
        return jobs.get(c, project, job_id)


def _read(services: Services, project: str, job_id: str) -> Response:
    with services.database.read() as c:
        job = jobs.get(c, project, job_id)
        return job_answer(job, jobs.queue_position(c, job)).respond()


def _answer(services: Services, job: Job, status: int = 200) -> Response:
    with services.database.read() as c:
        return job_answer(job, jobs.queue_position(c, job)).respond(status)
