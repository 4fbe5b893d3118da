"""`Client` and `AsyncClient`: the service as Python objects."""

import os
import sys
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from temper.datasets import Datasets
from temper.jobs import Jobs
from temper.models import Models
from temper.requests import fetch
from temper.steps import Awaiting, Blocking, R, Resource, Steps, operation

if sys.platform != "win32":
    from temper.embedded.folder import running

DEFAULT_URL = "http://127.0.0.1:8000"


class _Service(Resource[R]):
    """What both clients have: `datasets`, `jobs`, `models` and the catalog."""

    def __init__(self, runner: R) -> None:
        super().__init__(runner)
        self.datasets = Datasets(runner)
        self.jobs = Jobs(runner)
        self.models = Models(runner)

    @operation
    def catalog(self) -> Steps[dict[str, Any]]:
        """Every architecture, regularizer, augmentation, attack and mode, with schemas and examples, and the limits."""
        answer: dict[str, Any] = yield from fetch("/api/v1/catalog")
        return answer


class Client(_Service[Blocking]):
    """A connection to a service: `url` or `TEMPER_URL`, or the local embedded service; `api_key` or `TEMPER_API_KEY`."""

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = url or default_url()
        self._http = httpx2.Client(**_settings(self.url, api_key))
        super().__init__(Blocking(self._http))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient(_Service[Awaiting]):
    """The same as `Client`, with operations to await."""

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = url or default_url()
        self._http = httpx2.AsyncClient(**_settings(self.url, api_key))
        super().__init__(Awaiting(self._http))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def default_url() -> str:
    """`TEMPER_URL`, else where the embedded service of `TEMPER_DATA` (`.temper`) listens, else http://127.0.0.1:8000."""
    url = os.environ.get("TEMPER_URL", "")
    if not url and sys.platform != "win32":
        service = running(Path(os.environ.get("TEMPER_DATA", ".temper")))
        url = "" if service is None else service.url
    return url or DEFAULT_URL


def _settings(url: str, api_key: str | None) -> dict[str, Any]:
    key = api_key or os.environ.get("TEMPER_API_KEY", "")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        # A proxy of the environment is for other machines.
        "trust_env": not _loopback(httpx2.URL(url).host),
    }


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
