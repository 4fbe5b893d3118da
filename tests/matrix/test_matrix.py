"""The bad-input matrix: 108 things that callers and files do wrong, and the one answer that each of them gets."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.matrix import bodies, data, faults, specs, states, transport
from tests.matrix.table import Answer, Bench, Row, check_problem

ROOT = Path(__file__).parents[2]
ROWS: list[Row] = [*transport.ROWS, *bodies.ROWS, *specs.ROWS, *data.ROWS, *states.ROWS, *faults.ROWS]
ACCESS, ONCE = "tests/routes/test_access.py", "tests/routes/test_idempotency.py"
WHO, LIMITS = (ACCESS, "test_who_may_ask"), (ACCESS, "test_limits_of_a_key_and_of_a_project")
ELSEWHERE = {
    1: WHO, 2: WHO, 3: WHO, 4: WHO, 21: LIMITS, 22: LIMITS, 92: LIMITS, 23: (ONCE, "test_keys_that_are_none"),
    24: (ONCE, "test_another_body_is_refused"), 25: (ONCE, "test_an_upload_under_way_is_told_of"),
}  # fmt: skip
LEFT_OUT = {77: "there are no webhooks yet"}


def test_the_table_is_whole() -> None:
    here = {row.number for row in ROWS}
    assert not here & (ELSEWHERE.keys() | LEFT_OUT.keys())
    assert sorted(here | ELSEWHERE.keys() | LEFT_OUT.keys()) == list(range(1, 109))
    for file, test in ELSEWHERE.values():
        assert f"\ndef {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.number}-{row.what[:40]}-{place}" for place, row in enumerate(ROWS)])
def test_a_row(row: Row, request: pytest.FixtureRequest) -> None:
    if row.on == "slow":
        answers: dict[Row, Future[Answer]] = request.getfixturevalue("slow")
        row.check(answers[row].result())
    else:
        row.check(row.send(request.getfixturevalue(row.on)))


def test_nothing_broke_and_nothing_is_left(bench: Bench, spare: Bench) -> None:
    for each in (bench, spare):
        assert each.ask("GET", "/livez").status == 200
        lines = [json.loads(line) for line in each.log.read_text().splitlines() if line.startswith("{")]
        assert [line for line in lines if line.get("level") in ("error", "critical") or "exception" in line] == []
        assert list((each.data / "files" / "staging").iterdir()) == []
    assert not Path("/tmp/temper-was-here").exists()


def test_the_check_of_a_problem_sees_what_is_wrong_with_it() -> None:
    headers = {"content-type": "application/problem+json", "x-request-id": "1"}
    good = {"type": "/problems/x", "title": "X", "status": 400, "detail": "", "instance": "/", "request_id": "1"}
    assert check_problem(Answer(400, headers, json.dumps(good).encode())) == good
    flaw = {"pointer": "", "code": "x", "message": ""}
    for wrong in (
        {"detail": 'File "/home/app/routes.py", line 3'}, {"detail": "SELECT id"}, {"status": 422}, {"request_id": "2"}, {"more": 1},
        {"errors": [flaw] * 21}, {"errors": [{"pointer": ""}]}, {"detail": "x" * 9000},
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            check_problem(Answer(400, headers, json.dumps({**good, **wrong}).encode()))
