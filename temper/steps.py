"""Operations written once, as steps that ask for requests and pauses, and run by a blocking or an awaiting client."""

import asyncio
import functools
import json
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from pathlib import Path
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

import httpx2


class Send(NamedTuple):
    """A request to make. `repeatable`: doing it twice is doing it once. `file` is sent as multipart, with `form`."""

    method: str
    path: str
    query: Mapping[str, Any] = {}
    body: Any = None
    headers: Mapping[str, str] = {}
    repeatable: bool = False
    timeout_s: float = 30.0
    file: Path | None = None
    form: Mapping[str, str] = {}


class Pause(NamedTuple):
    """Seconds to let pass."""

    seconds: float


P = ParamSpec("P")
T = TypeVar("T")
Steps = Generator[Send | Pause, Any, T]


class Blocking:
    """Runs steps in the calling thread."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def run(self, steps: Steps[T]) -> T:
        """What the steps return, once they are done."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._take(step)
                except httpx2.TransportError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _take(self, step: Send | Pause) -> httpx2.Response | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        if step.file is None:
            return self._http.request(step.method, step.path, **_arguments(step))
        with step.file.open("rb") as stream:
            return self._http.request(step.method, step.path, files={"file": (step.file.name, stream)}, data=step.form, **_arguments(step))


class Awaiting:
    """Runs steps in the running event loop."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def run(self, steps: Steps[T]) -> T:
        """What the steps return, once they are done."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._take(step)
                except httpx2.TransportError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _take(self, step: Send | Pause) -> httpx2.Response | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        if step.file is None:
            return await self._http.request(step.method, step.path, **_arguments(step))
        with step.file.open("rb") as stream:
            files = {"file": (step.file.name, stream)}
            return await self._http.request(step.method, step.path, files=files, data=step.form, **_arguments(step))


R = TypeVar("R", bound=Blocking | Awaiting)


class Resource(Generic[R]):
    """Something of the service, with the runner that its operations use."""

    def __init__(self, runner: R) -> None:
        self.runner = runner


class Operation(Generic[P, T]):
    """A method of a resource: it returns the result for a `Client`, an awaitable of it for an `AsyncClient`."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, resource: Resource[Blocking], owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(self, resource: Resource[Awaiting], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, resource: Any, owner: type) -> Any:
        """The bound method; the operation itself on the class."""
        if resource is None:
            return self

        @functools.wraps(self.steps)
        def run(*arguments: P.args, **options: P.kwargs) -> Any:
            return resource.runner.run(self.steps(resource, *arguments, **options))

        return run


def operation(steps: Callable[Concatenate[Any, P], Steps[T]]) -> Operation[P, T]:
    """Makes a method that yields its requests into an operation."""
    return Operation(steps)


def _arguments(send: Send) -> dict[str, Any]:
    arguments: dict[str, Any] = {"params": dict(send.query), "headers": dict(send.headers), "timeout": send.timeout_s}
    if send.body is not None:
        arguments["content"] = json.dumps(send.body, allow_nan=False)
        arguments["headers"]["Content-Type"] = "application/json"
    return arguments
