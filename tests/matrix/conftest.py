"""What the matrix is sent to: a whole service with three models, and API processes in a bad state."""

import resource
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2
import pytest

from temper.embedded.launch import Launch
from tests.matrix import transport
from tests.matrix.table import DIGITS, MLP, Answer, Bench, Row, upload
from tests.system.alone import api
from tests.system.desk import Desk
from tests.system.servers import Absent, Postgres

MIB = 2**20


@pytest.fixture(scope="session")
def bench(service: Launch, http: httpx2.Client) -> Bench:
    """The whole service; `plain` has one member, `forest` two and dropout, `numbers` is a regression; `job` has ended."""
    desk = Desk(http)
    made = {
        "plain": desk.run({**DIGITS, "name": "plain", "epochs": 1}),
        "forest": desk.run({**DIGITS, "name": "forest", "epochs": 1, "architecture": {**MLP, "dropout": 0.2}, "ensemble": {"size": 2}}),
        "numbers": desk.run({"dataset": "diabetes", "architecture": MLP, "name": "numbers", "epochs": 1}),
        "broken": desk.run({**DIGITS, "name": "broken", "epochs": 1}),
    }
    refs = {name: job["model"] for name, job in made.items()}
    return Bench(http, service.data, service.data / "logs" / "api.log", {**refs, "job": made["plain"]["id"]})


@pytest.fixture(scope="session")
def slow(bench: Bench) -> Iterator[dict[Row, Future[Answer]]]:
    """The answers of all rows that take 10 seconds, sent at once."""
    rows = [row for row in transport.ROWS if row.on == "slow"]
    with ThreadPoolExecutor(len(rows)) as pool:
        yield {row: pool.submit(row.send, bench) for row in rows}


@pytest.fixture(scope="session")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An API whose files have room for 8 MiB each, in a slot of 1 GiB; `waiting` waits on the dataset `used`, another job is cancelled."""
    folder = tmp_path_factory.mktemp("spare")
    with api(folder, TEMPER_SLOT_MEMORY_BYTES=str(1024 * MIB)) as alone, httpx2.Client(base_url=alone.url, timeout=60) as http:
        resource.prlimit(alone.process.pid, resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))
        bench = Bench(http, alone.data, alone.log)
        assert upload(b"a,y\n" + b"1,2\n3,4\n" * 20, name="used")(bench).status == 201
        for name in ("waiting", "cancelled"):
            job = bench.ask("POST", "/api/v1/jobs", json={"dataset": "used", "architecture": MLP, "name": name})
            assert job.status == 202, job
            bench.refs[name] = job.json["id"]
        assert bench.ask("POST", "/api/v1/jobs/{cancelled}/cancel").status == 202
        yield bench


@pytest.fixture(scope="session")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An API whose database is gone."""
    try:
        postgres = Postgres()
    except Absent as reason:
        pytest.skip(f"the leg on PostgreSQL and Redis could not run: {reason}")
    postgres.start()
    try:
        folder = tmp_path_factory.mktemp("cut-off")
        with api(folder, TEMPER_DATABASE_URL=postgres.url) as alone, httpx2.Client(base_url=alone.url, timeout=60) as http:
            postgres.end()
            yield Bench(http, alone.data, alone.log)
    finally:
        postgres.close()
