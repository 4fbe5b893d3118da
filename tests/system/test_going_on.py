"""What a job does while its processes come and go: a drained worker, a killed API; on both stacks."""

import os
import signal
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.patience import until
from tests.system.desk import Desk, alive, playing
from tests.system.long_jobs import MARATHON
from tests.system.separate import Separate, Stack, roots


@pytest.fixture
def lose(stack: Stack) -> Callable[[str, int], None]:
    """Sends a signal to all processes of a role, waits for their end and has the stack complete again."""

    def send(role: str, number: int) -> None:
        found = playing(role, roots(stack))
        assert found
        for pid in found:
            os.kill(pid, number)
        until(lambda: not any(alive(pid) for pid in found))
        if isinstance(stack, Separate):
            for process in (stack.api, *stack.workers):
                if process is not None and process.pid in found:
                    process.wait()
            stack.tend()

    return send


def begun(job: dict[str, Any]) -> bool:
    return bool(job["done"] or job["progress"]["fraction"] > 0.2)


def test_a_drained_worker_gives_back_and_the_next_goes_on(desk: Desk, undisturbed: str, lose: Callable[[str, int], None]) -> None:
    job = desk.wait(desk.post({**MARATHON, "name": "drained"}), until=begun)
    lose("worker", signal.SIGTERM)
    job = desk.wait(job)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert "resumed at epoch" in desk.http.get(f"/api/v1/jobs/{job['id']}/logs").text
    assert desk.model(job)["sha256"] == undisturbed


def test_a_job_does_not_notice_that_the_api_is_gone(desk: Desk, undisturbed: str, lose: Callable[[str, int], None]) -> None:
    job = desk.wait(desk.post({**MARATHON, "name": "alone"}), until=begun)
    lose("api", signal.SIGKILL)
    until(lambda: up(desk))
    job = desk.wait(desk.http.get(f"/api/v1/jobs/{job['id']}").json())
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    assert desk.model(job)["sha256"] == undisturbed


def up(desk: Desk) -> bool:
    try:
        return desk.http.get("/readyz").status_code == 200
    except httpx2.HTTPError:
        return False
