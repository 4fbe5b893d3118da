"""Every order in every state of a job, without a living worker: what it answers and what becomes of the job."""

from collections.abc import Callable, Iterator

import httpx2
import pytest

from service.storage import shards
from service.storage.sessions import Database
from tests.routes.conftest import API
from tests.routes.test_events import run
from tests.routes.test_jobs import submit

ERROR = {"title": "Broken", "status": 500}


def queued(_http: httpx2.Client, _database: Database, _job: str) -> None:
    pass


def running(_http: httpx2.Client, database: Database, job: str) -> None:
    run(database, job)


def lost(_http: httpx2.Client, database: Database, job: str) -> None:
    """Running by its row, its worker gone and its lease over."""
    run(database, job)
    with database.write() as c:
        c.exec_driver_sql("UPDATE shards SET lease = 0 WHERE job_id = ?", (job,))


def cancelling(http: httpx2.Client, database: Database, job: str) -> None:
    run(database, job)
    http.post(f"/api/v1/jobs/{job}/cancel")


def cancelled(http: httpx2.Client, _database: Database, job: str) -> None:
    http.post(f"/api/v1/jobs/{job}/cancel")


def failed(_http: httpx2.Client, database: Database, job: str) -> None:
    claim = run(database, job)
    with database.write() as c:
        shards.fail(c, claim, ERROR, retryable=False, max_attempts=3)


def succeeded(_http: httpx2.Client, database: Database, job: str) -> None:
    claim = run(database, job)
    with database.write() as c:
        shards.finish(c, claim, {"members": [0]})
    claim = run(database, job)
    with database.write() as c:
        shards.publish(c, claim, shards.Outcome(model=None, result={}, best=None, stop_reason="epochs"))


Reach = Callable[[httpx2.Client, Database, str], None]
# state -> what stop, cancel, retry and DELETE answer, and the state after each.
ORDERS: dict[Reach, dict[str, tuple[int, str | None, str | None]]] = {
    queued: {"stop": (409, "not-running", "queued"), "cancel": (202, None, "cancelled"), "retry": (409, "not-retryable", "queued"),
             "delete": (409, "job-running", "queued")},
    running: {"stop": (202, None, "running"), "cancel": (202, None, "cancelling"), "retry": (409, "not-retryable", "running"),
              "delete": (409, "job-running", "running")},
    lost: {"stop": (202, None, "running"), "cancel": (202, None, "cancelling"), "retry": (409, "not-retryable", "running"),
           "delete": (409, "job-running", "running")},
    cancelling: {"stop": (409, "not-running", "cancelling"), "cancel": (202, None, "cancelling"),
                 "retry": (409, "not-retryable", "cancelling"), "delete": (409, "job-running", "cancelling")},
    cancelled: {"stop": (409, "already-terminal", "cancelled"), "cancel": (200, None, "cancelled"), "retry": (202, None, "queued"),
                "delete": (204, None, None)},
    failed: {"stop": (409, "already-terminal", "failed"), "cancel": (409, "already-terminal", "failed"), "retry": (202, None, "queued"),
             "delete": (204, None, None)},
    succeeded: {"stop": (409, "already-terminal", "succeeded"), "cancel": (409, "already-terminal", "succeeded"),
                "retry": (409, "not-retryable", "succeeded"), "delete": (204, None, None)},
}  # fmt: skip
CASES = [
    pytest.param(reach, order, *found, id=f"{reach.__name__}-{order}")
    for reach, orders in ORDERS.items()
    for order, found in orders.items()
]


@pytest.fixture
def database(api: API) -> Iterator[Database]:
    made = Database(f"sqlite:///{api.data / 'temper.db'}")
    yield made
    made.close()


@pytest.mark.parametrize(("reach", "order", "status", "slug", "after"), CASES)
def test_an_order_in_a_state(
    http: httpx2.Client, database: Database, reach: Reach, order: str, status: int, slug: str | None, after: str | None
) -> None:
    job = submit(http)["id"]
    reach(http, database, job)
    path = f"/api/v1/jobs/{job}"
    answer = http.delete(path) if order == "delete" else http.post(f"{path}/{order}")
    assert (answer.status_code, answer.json()["type"].removeprefix("/problems/") if answer.is_error else None) == (status, slug)
    found = http.get(path)
    assert (found.json()["state"] if found.status_code == 200 else None) == after
    # Whatever was ordered, what it left behind can be read, and the job can be brought to an end.
    if after is not None:
        for part in ("metrics", "logs"):
            assert http.get(f"{path}/{part}").status_code == 200
    http.post(f"{path}/cancel")


def test_a_cancel_needs_no_living_worker(http: httpx2.Client, database: Database) -> None:
    """The API closes what a lost worker left."""
    job = submit(http)["id"]
    lost(http, database, job)
    http.post(f"/api/v1/jobs/{job}/cancel")
    answer = http.get(f"/api/v1/jobs/{job}", params={"wait": 20, "since": 3})
    while not answer.json()["done"]:
        answer = http.get(f"/api/v1/jobs/{job}", params={"wait": 20, "since": answer.json()["version"]})
    assert answer.json()["state"] == "cancelled"
