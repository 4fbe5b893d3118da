"""Requests as steps: what may be repeated is, with jitter and as `Retry-After` says; answers that are errors are raised."""

import random
from collections.abc import Mapping
from itertools import count
from typing import Any

import httpx2

from temper.errors import Unreachable, problem
from temper.steps import Pause, Send, Steps

RETRIES = 4
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
TRANSIENT = frozenset({429, 502, 503, 504})


def exchange(send: Send) -> Steps[httpx2.Response]:
    """The answer to a request; what may be repeated is, with jitter and as `Retry-After` says. Raises `Problem` or `Unreachable`."""
    for attempt in count():
        wait_s = 0.0
        try:
            response: httpx2.Response = yield send
        except httpx2.TransportError as error:
            # A connection that was refused has carried nothing: trying again is safe for every request.
            if attempt == RETRIES or not (send.repeatable or isinstance(error, httpx2.ConnectError)):
                raise Unreachable(f"No answer to {send.method} {send.path}: {error or type(error).__name__}. Is the service up?") from error
        else:
            if response.is_success:
                return response
            wait_s = _retry_after(response)
            if attempt == RETRIES or not send.repeatable or not _passing(response) or wait_s > LONGEST_RETRY_AFTER_S:
                raise problem(response.status_code, _json(response))
        yield Pause(wait_s + random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)))
    raise AssertionError("unreachable")


def fetch(path: str, **query: Any) -> Steps[Any]:
    """The JSON at a path; a query's None is left out."""
    response = yield from exchange(Send("GET", path, query=given(query), repeatable=True))
    return response.json()


def post(path: str, body: Any = None, *, repeatable: bool = True) -> Steps[Any]:
    """The JSON that a POST answers; repeatable unless the request changes something each time it is made."""
    response = yield from exchange(Send("POST", path, body=body, repeatable=repeatable, timeout_s=120))
    return response.json()


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def _passing(response: httpx2.Response) -> bool:
    return response.status_code in TRANSIENT or (response.status_code == 409 and "retry-after" in response.headers)


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def pages(path: str, limit: int, **filters: Any) -> Steps[list[Any]]:
    """The first `limit` items of a list, over as many pages as that takes."""
    items: list[Any] = []
    cursor = None
    while len(items) < limit:
        page = yield from fetch(path, limit=min(limit - len(items), 200), cursor=cursor, **filters)
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return items
