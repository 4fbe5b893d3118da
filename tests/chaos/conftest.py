"""Both stacks with short leases, which tests kill and pause; whoever strikes a process has it complete again at its end."""

from collections.abc import Callable, Iterator

import pytest

from temper.embedded.launch import Launch
from tests.chaos.field import LEASE_S, Field
from tests.system.separate import Separate, Stack
from tests.system.servers import Absent

QUICK = {"TEMPER_LEASE_S": f"{LEASE_S}", "TEMPER_HEARTBEAT_S": "0.5", "TEMPER_POLL_S": "0.5", "TEMPER_GRACE_S": "5",
         "TEMPER_SHARDS": "2"}  # fmt: skip


@pytest.fixture(scope="session")
def open_stack(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Stack]:
    """A stack of that kind that has not begun."""

    def build(kind: str, **environment: str) -> Stack:
        folder = tmp_path_factory.mktemp(kind)
        told = {**QUICK, **environment}
        if kind == "embedded":
            return Launch(folder / "data", workers=2, environment=told)
        try:
            return Separate(folder, environment=told)
        except Absent as reason:
            pytest.skip(f"the leg on PostgreSQL and Redis could not run: {reason}")

    return build


@pytest.fixture(scope="session", params=["embedded", "separate"])
def stack(request: pytest.FixtureRequest, open_stack: Callable[..., Stack]) -> Iterator[Stack]:
    """A running stack: `temper up` on SQLite, or separate processes on PostgreSQL and Redis."""
    with open_stack(request.param) as running:
        yield running


@pytest.fixture(scope="session")
def ground(stack: Stack) -> Iterator[Field]:
    made = Field(stack)
    yield made
    made.close()


@pytest.fixture
def field(ground: Field) -> Iterator[Field]:
    """The running stack, whole before and after each test."""
    ground.whole()
    yield ground
    ground.whole()
