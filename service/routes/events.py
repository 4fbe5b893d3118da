"""A job's history as Server-Sent Events, from the database: every one numbered, none lost over a reconnect."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from service.errors import BadRequest
from service.routes.dependencies import Project, Services, ServicesHere, chosen
from service.routes.openapi import PROBLEMS
from service.routes.queries import Parameters
from service.routes.watching import Channel, Watch, set_within
from service.storage import events, jobs

STREAM = "text/event-stream"
COMMENT_S = 15.0
STUCK_S = 30.0
"""A reader that takes nothing for so long is dropped; it comes back with its `Last-Event-ID`."""
RETRY = b"retry: 2000\n\n"
MOST_NUMBER = 2**63 - 1


class EventsParameters(Parameters):
    """From where."""

    after: Annotated[int, Field(ge=0, le=MOST_NUMBER, description="Only events with a higher id; `Last-Event-ID` goes before it.")] = 0


router = APIRouter(tags=["jobs"], responses=PROBLEMS)


@router.get(
    "/api/v1/jobs/{job_id}/events",
    response_class=Response,
    responses={200: {"content": {STREAM: {}}}, 204: {"description": "The job has ended and nothing is left."}},
)
async def stream(
    job_id: str, query: Annotated[EventsParameters, Query()], request: Request, services: ServicesHere, project: Project
) -> Response:
    """The job's events `state`, `progress`, `metrics`, `log` and `end` as they happen, until its end."""
    chosen(request, (STREAM,))
    position = _position(request, query.after)
    if await run_in_threadpool(_over, services, project, job_id, position):
        return Response(status_code=204)
    return Stream(_Reader(services, project, job_id, position))


class Stream(Response):
    """Sends what a reader yields, and ends when the other side does or takes nothing for 30 s."""

    def __init__(self, reader: "_Reader") -> None:
        super().__init__(media_type=STREAM, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except TimeoutError:
            pass  # a reader that takes nothing: its connection is closed by what follows
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async for body in self._reader.run():
            async with asyncio.timeout(STUCK_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Reader:
    """One stream's place in a job's history."""

    def __init__(self, services: Services, project: str, job: str, position: int) -> None:
        self._services, self._project, self._job, self.position = services, project, job, position
        self._ended = False

    async def run(self) -> AsyncIterator[bytes]:
        """Blocks of events, and comments while nothing happens."""
        watch = self._services.watch
        yield RETRY
        with watch.channel(self._project, self._job) as channel:
            while not self._over(channel, watch):
                signal = channel.signal
                fresh = channel.since(self.position)
                if fresh is None:
                    fresh = await watch.past(channel, self.position)
                if fresh.body:
                    self.position, self._ended = fresh.number, fresh.ended
                    yield fresh.body
                elif self._ended:
                    return
                elif not await set_within(signal, COMMENT_S):
                    self._ended = await run_in_threadpool(_over, self._services, self._project, self._job, self.position)
                    yield b": still here\n\n"

    def _over(self, channel: Channel, watch: Watch) -> bool:
        return watch.closed or (channel.gone and not self._ended)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _position(request: Request, after: int) -> int:
    given = request.headers.get("last-event-id", "").strip()
    if not given:
        return after
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and int(given) <= MOST_NUMBER):
        raise BadRequest("Last-Event-ID is the id of an event of this job.")
    return int(given)


def _over(services: Services, project: str, job_id: str, position: int) -> bool:
    """Whether the job has ended and nothing is left after this position; raises NotFound."""
    with services.database.read() as c:
        return jobs.get(c, project, job_id).done and events.last(c, project, job_id) <= position
