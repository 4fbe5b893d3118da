"""Jobs as the client sees them: created, followed, stopped, cancelled."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import numpy as np

from temper.curves import svg
from temper.errors import JobCancelled, JobFailed, TemperError, Unavailable, Unreachable, WaitTimeout
from temper.models import Model
from temper.models import get as get_model
from temper.progress import Progress
from temper.requests import exchange, fetch, given, pages, post
from temper.steps import Blocking, Pause, R, Resource, Send, Steps, operation
from temper.stored import Stored

PATH = "/api/v1/jobs"
POLL_S = 10
AWAY_S = 300.0
"""How long the service may be unreachable before a wait gives up."""


class Job(Stored[R]):
    """A job as of the last answer, whose name becomes the model's; `data` is all that the service says about it."""

    @property
    def state(self) -> str:
        """One of queued, running, cancelling, succeeded, failed, cancelled."""
        return str(self.data["state"])

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return bool(self.data["done"])

    @property
    def progress(self) -> dict[str, Any]:
        """Fraction, epoch, epochs, members_done, members, eta_s; None for what is not known."""
        return dict(self.data["progress"])

    @property
    def result(self) -> Any:
        """What the job found; None before it succeeded."""
        return self.data["result"]

    @property
    def error(self) -> dict[str, Any] | None:
        """The problem of a failed job."""
        error: dict[str, Any] | None = self.data["error"]
        return error

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.name!r}, {self.state})"

    def _repr_html_(self) -> str | None:
        """The learning curve, for notebooks; None (the plain text) where it cannot be had at once."""
        if not isinstance(self.runner, Blocking):
            return None
        try:
            columns = self.runner.run(self._columns({}))
        except TemperError:
            return None
        return svg(columns, f"{self.name} · {self.state}") or None

    @operation
    def refresh(self) -> Steps["Job[R]"]:
        """Asks the service again; returns the job itself."""
        self.data = yield from fetch(f"{PATH}/{self.id}")
        return self

    @operation
    def wait(self, *, timeout: float | None = None, progress: bool | Callable[[Mapping[str, Any]], None] = False) -> Steps["Job[R]"]:
        """The job itself once it succeeded; lost connections are mended, an interrupt leaves the job running.

        `progress`: True draws it, a function is called with the job's data at every change.
        Raises `JobFailed`, `JobCancelled`, and `WaitTimeout` after `timeout` seconds.
        """
        with Progress() if progress is True else nullcontext(progress or _ignore) as show:
            yield from self._follow(show, timeout)
        if self.state == "failed":
            raise JobFailed(self.id, self.error or {})
        if self.state == "cancelled":
            raise JobCancelled(f"Job {self.id} was cancelled")
        return self

    def _follow(self, show: Callable[[Mapping[str, Any]], None], timeout: float | None) -> Steps[None]:
        end = None if timeout is None else time.monotonic() + timeout
        reached = time.monotonic()
        show(self.data)
        while not self.done:
            left = POLL_S if end is None else min(POLL_S, end - time.monotonic())
            if left <= 0:
                raise WaitTimeout(f"Job {self.id} is {self.state} after {timeout:g} s; it goes on")
            asked, version = time.monotonic(), self.data["version"]
            try:
                self.data = yield from fetch(f"{PATH}/{self.id}", wait=int(left), since=version)
                reached = time.monotonic()
            except (Unreachable, Unavailable):
                if time.monotonic() - reached > AWAY_S:
                    raise
            show(self.data)
            if self.data["version"] == version and time.monotonic() - asked < 0.5:
                yield Pause(0.5)

    @operation
    def stop(self) -> Steps["Job[R]"]:
        """Ends the training now and keeps the best weights; raises `Conflict` unless the job is running."""
        self.data = yield from post(f"{PATH}/{self.id}/stop", repeatable=False)
        return self

    @operation
    def cancel(self) -> Steps["Job[R]"]:
        """Ends the job, publishing nothing; raises `Conflict` when it is already done."""
        self.data = yield from post(f"{PATH}/{self.id}/cancel")
        return self

    @operation
    def retry(self) -> Steps["Job[R]"]:
        """Lets a failed or cancelled job go on from its last checkpoint; raises `Conflict` for others."""
        self.data = yield from post(f"{PATH}/{self.id}/retry", repeatable=False)
        return self

    @operation
    def delete(self) -> Steps[None]:
        """Deletes a job that is done, but not its model; raises `Conflict` for others."""
        yield from exchange(Send("DELETE", f"{PATH}/{self.id}"))

    @operation
    def model(self) -> Steps[Model[R]]:
        """The model that the job published."""
        if self.data["model"] is None:
            raise TemperError(f"Job {self.id} is {self.state}; it has no model")
        return (yield from get_model(self.runner, str(self.data["model"])))

    @operation
    def metrics(self, *, name: str | None = None, member: int | None = None) -> Steps[dict[str, np.ndarray[Any, Any]]]:
        """Columns epoch, member, name and value, one row per measurement."""
        return (yield from self._columns({"name": name, "member": member}))

    def _columns(self, filters: Mapping[str, Any]) -> Steps[dict[str, np.ndarray[Any, Any]]]:
        columns = yield from fetch(f"{PATH}/{self.id}/metrics", **filters)
        return {key: np.asarray(values) for key, values in columns.items()}

    @operation
    def logs(self) -> Steps[str]:
        """The log so far."""
        response = yield from exchange(Send("GET", f"{PATH}/{self.id}/logs", repeatable=True))
        return response.text


class Jobs(Resource[R]):
    """All jobs."""

    @operation
    def create(self, spec: Mapping[str, Any]) -> Steps[Job[R]]:
        """Starts a job; raises `Invalid`, whose flaws point into the spec, when it cannot run."""
        headers = {"Idempotency-Key": uuid4().hex}
        response = yield from exchange(Send("POST", PATH, body=dict(spec), headers=headers, repeatable=True))
        return Job(self.runner, response.json())

    @operation
    def validate(self, spec: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        """The resolved spec, layers, parameters, memory and FLOP estimates and warnings; nothing is started."""
        answer: dict[str, Any] = yield from post(f"{PATH}:validate", dict(spec))
        return answer

    @operation
    def get(self, job: str) -> Steps[Job[R]]:
        """The job of an id; raises `NotFound`."""
        return Job(self.runner, (yield from fetch(f"{PATH}/{job}")))

    @operation
    def list(
        self, *, state: str | None = None, kind: str | None = None, name: str | None = None, limit: int = 50
    ) -> Steps[Sequence[Job[R]]]:
        """The newest jobs, at most `limit` of them."""
        items = yield from pages(PATH, limit, **given({"state": state, "kind": kind, "name": name}))
        return [Job(self.runner, item) for item in items]


def _ignore(job: Mapping[str, Any]) -> None:
    pass
