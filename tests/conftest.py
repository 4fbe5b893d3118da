"""Shared fixtures: a whole embedded service on a free port, in a folder of its own. The last lines say which leg could not run."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from temper.embedded.launch import Launch
from tests.scheduling import ByService, place


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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits most comes first; the order within a folder stays."""
    items.sort(key=lambda item: place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByService:
    """Who shares a service shares a process."""
    return ByService(config, log)


# What the tests run on; a test's parameter says which of the two.
LEGS = {"SQLite + embedded broker": {"sqlite", "embedded"}, "PostgreSQL + Redis": {"postgresql", "separate"}}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what tests had to say, and of each leg how many tests ran on it, and why others could not."""
    found = [report for outcome in ("passed", "failed", "error", "skipped") for report in terminalreporter.getreports(outcome)]
    reports = [report for report in found if isinstance(report, pytest.TestReport)]
    for report in reports:
        for said in [value for name, value in report.user_properties if name == "said" and report.when == "call"]:
            terminalreporter.write_line(str(said))
    for leg, names in LEGS.items():
        own = [report for report in reports if names & {*report.nodeid.partition("[")[2].rstrip("]").split("-")}]
        reasons = Counter(reason_of(report) for report in own if report.skipped)
        ran = sum(report.when == "call" and not report.skipped for report in own)
        if own:
            terminalreporter.write_line(f"leg {leg}: {ran} tests ran, {reasons.total()} could not")
        for reason, count in reasons.items():
            terminalreporter.write_line(f"leg {leg}: {count} could not run: {reason}")


def reason_of(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    told = report.longrepr
    return str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")
