"""A desk at a running service, embedded and as separate processes, and a way to kill its trainers."""

from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.system.desk import Desk, kill_trainers
from tests.system.long_jobs import MARATHON
from tests.system.separate import Separate, Stack, roots, visitor
from tests.system.servers import Absent


@pytest.fixture(scope="session", params=["embedded", "separate"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`temper up` on SQLite with its private broker, or `temper api` and two `temper worker` on PostgreSQL and Redis."""
    if request.param == "embedded":
        yield request.getfixturevalue("service")
        return
    try:
        separate = Separate(tmp_path_factory.mktemp("separate"), environment={"TEMPER_SHARDS": "2"})
    except Absent as reason:
        pytest.skip(f"the leg on PostgreSQL and Redis could not run: {reason}")
    with separate:
        yield separate


@pytest.fixture(scope="session")
def http(stack: Stack) -> Iterator[httpx2.Client]:
    """An HTTP client of the running service."""
    with visitor(stack) as client:
        yield client


@pytest.fixture(scope="session")
def desk(http: httpx2.Client) -> Desk:
    return Desk(http)


@pytest.fixture(scope="session")
def undisturbed(desk: Desk) -> str:
    """The digest of the model of `MARATHON` that nothing befell."""
    return str(desk.model(desk.run({**MARATHON, "name": "undisturbed"}))["sha256"])


@pytest.fixture
def killer(stack: Stack) -> Callable[[], int]:
    return lambda: kill_trainers(roots(stack))
