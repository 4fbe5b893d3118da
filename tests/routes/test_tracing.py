"""W3C Trace Context: what is taken over, and where it goes."""

import json
import sqlite3
from pathlib import Path

import httpx2
import pytest

from service import tracing
from tests.routes.conftest import served

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("value", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-what-will-be"])
def test_what_is_taken_over(value: str) -> None:
    assert tracing.told(tracing.accepted([value])) == {"trace_id": TRACE}


@pytest.mark.parametrize(
    "values",
    [[], ["00-x-y-01"], [f"00-{TRACE.upper()}-{PARENT}-01"], [f"00-{'0' * 32}-{PARENT}-01"], [f"00-{TRACE}-{'0' * 16}-01"],
     [f"ff-{TRACE}-{PARENT}-01"], [f"00-{TRACE}-{PARENT}-01-more"], [f"00-{TRACE}-{PARENT}-01\n"], [f"00-{TRACE}-{PARENT}-01"] * 2,
     [f"cc-{TRACE}-{PARENT}-01-{'x' * 300}"]],
)  # fmt: skip
def test_what_is_ignored(values: list[str]) -> None:
    assert tracing.told(tracing.accepted(values)) == {}


def test_it_is_on_the_log_lines_and_goes_with_the_job(tmp_path: Path) -> None:
    sent = f"00-{TRACE}-{PARENT}-01"
    spec = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [4]}, "epochs": 1}
    with served(tmp_path) as api, httpx2.Client(base_url=api.url) as http:
        assert http.post("/api/v1/jobs", json=spec, headers={"traceparent": sent}).status_code == 202
        assert http.post("/api/v1/jobs", json=spec, headers={"traceparent": "nonsense"}).status_code == 202
        with sqlite3.connect(api.data / "temper.db") as database:
            kept = [json.loads(extra) for (extra,) in database.execute("SELECT extra FROM jobs ORDER BY id")]
    assert [extra.get("traceparent") for extra in kept] == [sent, None]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert [line.get("trace_id") for line in lines if line.get("path") == "/api/v1/jobs"] == [TRACE, None]
