"""Shared fixtures: a whole embedded service on a free port, in a folder of its own."""

from collections.abc import Iterator

import httpx2
import pytest

from temper.embedded.launch import Launch


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """A running service (API, worker, private broker, SQLite) with `url`, `data` and `process`."""
    with Launch(tmp_path_factory.mktemp("service") / "data", workers=2) as launched:
        yield launched


@pytest.fixture(scope="session")
def http(service: Launch) -> Iterator[httpx2.Client]:
    """An HTTP client of the running service."""
    with httpx2.Client(base_url=service.url, timeout=60) as client:
        yield client
