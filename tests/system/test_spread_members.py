"""An ensemble over two workers on PostgreSQL: each trains its share of the members, and one alone goes on with both."""

import signal
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.patience import until
from tests.system.desk import Desk
from tests.system.long_jobs import LONG
from tests.system.separate import Separate, Stack

SPEC: dict[str, Any] = {**LONG, "epochs": 80, "ensemble": {"size": 6, "bootstrap": True}, "checkpoint_interval_s": 0.2}


@pytest.fixture
def hosts(stack: Stack) -> Separate:
    if not isinstance(stack, Separate):
        pytest.skip("the embedded stack has one worker")
    return stack


def owners(hosts: Separate, job: dict[str, Any]) -> dict[int, str]:
    """By running shard, the worker that has claimed it."""
    engine = create_engine(hosts.postgres.url)
    try:
        with engine.connect() as c:
            query = text("SELECT number, owner FROM shards WHERE job_id = :job AND state = 'running' AND kind = 'train'")
            return {int(row[0]): str(row[1]) for row in c.execute(query, {"job": job["id"]})}
    finally:
        engine.dispose()


def test_members_are_spread_over_workers_and_resume_on_fewer(desk: Desk, hosts: Separate) -> None:
    whole = desk.wait(desk.post({**SPEC, "name": "spread"}), until=lambda job: len(set(owners(hosts, job).values())) == 2 or job["done"])
    assert not whole["done"], "both workers hold a share of the members at once"
    whole = desk.wait(whole)
    assert (whole["state"], whole["attempt"], desk.model(whole)["members"]) == ("succeeded", 1, 6)

    job = desk.wait(
        desk.post({**SPEC, "name": "fewer"}), until=lambda job: job["progress"]["fraction"] > 0.2 and len(owners(hosts, job)) == 2
    )
    leaving = hosts.workers[0]
    leaving.send_signal(signal.SIGTERM)
    until(lambda: leaving.poll() is not None)
    try:
        job = desk.wait(job)
    finally:
        hosts.tend()
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert "resumed at epoch" in desk.http.get(f"/api/v1/jobs/{job['id']}/logs").text
    assert desk.model(job)["sha256"] == desk.model(whole)["sha256"]
