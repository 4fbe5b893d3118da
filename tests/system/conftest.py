"""A desk at the running service, and a way to kill its trainers."""

from collections.abc import Callable

import httpx2
import pytest

from temper.embedded.launch import Launch
from tests.system.desk import Desk, kill_trainers


@pytest.fixture(scope="session")
def desk(http: httpx2.Client) -> Desk:
    return Desk(http)


@pytest.fixture
def killer(service: Launch) -> Callable[[], int]:
    return lambda: kill_trainers(service.process.pid)
