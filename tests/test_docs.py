"""What the pages say is there, and what they show runs: jobs are validated, commands and Python blocks run against a real service.

A fence's words say what becomes of its block: `json job` is posted to jobs:validate, `sh run` and `python run` are executed, page by
page, in an empty folder, where `python reader.py` is a file of that name for others to import; `json`, `sh`, `console` and `text` are
only shown.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from fastapi.routing import APIRoute
from typer.main import get_command

from service.app import ROUTERS
from service.catalog import PARTS, UNIONS, kinds, tag_of
from service.flaws import CODES
from service.inference.attacking import AttackRequest
from service.inference.predicting import PredictRequest
from service.inference.projecting import ProjectRequest
from service.routes import answers, model_answers
from service.routes.pages import PAGES
from service.settings import Settings
from service.tricks.modes import MEANINGS, Asking
from temper import datasets, jobs, models
from temper.cli import app
from temper.embedded.launch import Launch
from temper.steps import Operation

ROOT = Path(__file__).parent.parent
PAGES_OF_OURS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES_OF_OURS}
EVERYTHING = "\n".join(TEXTS.values())
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = ("json", "sh", "console", "text")
MARKED = ("json job", "sh run", "python run")
ADDRESS = "http://127.0.0.1:8000"
# What the pages' jobs refer to: an ensemble named `digits`, trained with dropout.
DIGITS = {
    "dataset": "digits", "architecture": {"type": "mlp", "hidden": [8], "dropout": 0.2}, "ensemble": {"size": 2}, "epochs": 2,
}  # fmt: skip


class Block(NamedTuple):
    """A fenced block of a page, and where it stands."""

    page: str
    line: int
    words: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of a file that others import."""
        found = re.fullmatch(r"python (\w+\.py)", self.words)
        return found[1] if found else None


BLOCKS = [
    Block(page, text[: found.start()].count("\n") + 1, found[1], found[2]) for page, text in TEXTS.items() for found in FENCE.finditer(text)
]
JOBS = [block for block in BLOCKS if block.words == "json job"]
RUNNING = sorted({block.page for block in BLOCKS if block.words in MARKED[1:]})


def named(words: Iterator[str] | list[str] | set[str], text: str) -> list[str]:
    """The words that do not stand in the text, as words of their own."""
    return [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_is_of_a_known_sort(block: Block) -> None:
    assert block.words in (*SHOWN, *MARKED) or block.file, block.words
    if block.words.startswith("json"):
        json.loads(block.text)


@pytest.fixture(scope="module")
def digits(http: httpx2.Client) -> None:
    """A model of that name."""
    job = http.post("/api/v1/jobs", json=DIGITS).json()
    job = http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 60, "since": 10**9}, timeout=70).json()
    assert job["state"] == "succeeded", job["error"]


@pytest.mark.parametrize("block", JOBS, ids=lambda block: block.name)
def test_a_job_is_valid(block: Block, http: httpx2.Client, digits: None) -> None:
    answer = http.post("/api/v1/jobs:validate", json=json.loads(block.text))
    assert answer.status_code == 200, answer.text
    assert answer.json()["warnings"] == []


def program(block: Block, folder: Path) -> list[str]:
    """The command that runs a block; a script of Python is a file, as its reader would have it."""
    if block.words == "sh run":
        return ["bash", "-euo", "pipefail", "-c", block.text]
    script = folder / f"line{block.line}.py"
    script.write_text(block.text)
    return [sys.executable, str(script)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' commands need curl")
@pytest.mark.parametrize("page", RUNNING)
def test_a_pages_commands_run(page: str, service: Launch, tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text("fail-with-body\n")  # so that an error's status ends the block
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = {"PATH": path, "CURL_HOME": str(tmp_path), "TEMPER_URL": service.url, "TEMPER_DATA": str(service.data)}
    for block in (block for block in BLOCKS if block.page == page and block.file):
        (tmp_path / str(block.file)).write_text(block.text)
    for block in (block for block in BLOCKS if block.page == page and block.words in MARKED[1:]):
        command = program(block._replace(text=block.text.replace(ADDRESS, service.url)), tmp_path)
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **told}, capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == 0, f"{block.name}\n{done.stdout}{done.stderr}"


def test_the_first_screen_shows_the_two_commands_and_three_ways_to_one_job() -> None:
    screen = "\n".join(TEXTS["README.md"].splitlines()[:50])
    for words in ("$ make demo", "$ make test", "curl ", "@job.json", "temper train job.json", "from temper import", 'open("job.json")'):
        assert words in screen


def test_every_route_is_named() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 25
    wanted = {f"`{method} {route.path}`" for route in routes for method in route.methods}
    text = TEXTS["docs/api.md"]
    assert [route for route in sorted(wanted | {"`GET /openapi.json`", "`GET /docs`"}) if route not in text] == []
    shown = set(re.findall(r"^\| `((?:GET|POST|PUT|DELETE) /[^`]*)`", text, re.MULTILINE))
    assert {f"`{route}`" for route in shown} <= wanted


def test_every_setting_is_named() -> None:
    sources = "".join(path.read_text() for package in ("service", "workers", "temper", "tests") for path in (ROOT / package).rglob("*.py"))
    read = set(re.findall(r"""["'](TEMPER_[A-Z_]+)["']""", sources))
    fields = {f"TEMPER_{name.upper()}" for name in Settings.model_fields}
    assert named(read | fields, TEXTS["docs/running.md"]) == []
    assert set(re.findall(r"`(TEMPER_[A-Z_]+)`", EVERYTHING)) <= read | fields


def test_every_problem_is_named() -> None:
    sources = "".join(path.read_text() for package in ("service", "workers") for path in (ROOT / package).rglob("*.py"))
    of_jobs = set(re.findall(r"""problem\(\s*"([a-z]+(?:-[a-z]+)*)",""", sources)) | set(re.findall(r'"/problems/([a-z-]+)"', sources))
    of_classes = set(re.findall(r'slug, title(?:, retry_after_s)? = (?:\d+, )?"([a-z-]+)"', sources))
    of_warnings = set(re.findall(r'warnings\.append\(\s*Flaw\(\s*"[^"]*",\s*"([a-z-]+)"', sources))
    assert {"diverged", "worker-lost", "out-of-memory"} <= of_jobs | of_classes
    assert "patience-beyond-epochs" in of_warnings
    assert named(set(PAGES) | of_jobs | of_classes | of_warnings | set(CODES.values()), TEXTS["docs/api.md"]) == []


def fields(parts: Any) -> set[str]:
    return {field.alias or name for part in parts for name, field in part.model_fields.items() if not field.exclude}


@pytest.mark.parametrize("union", UNIONS)
def test_every_kind_and_its_fields_are_named(union: str) -> None:
    members = kinds(UNIONS[union])
    text = TEXTS["docs/spec.md"]
    assert named([f"`{tag_of(kind)[1]}`" for kind in members], text) == []
    assert named(fields(members), text) == []
    of_tricks = "\n".join(text for page, text in TEXTS.items() if page.startswith("docs/tricks/"))
    if union not in ("jobs", "architectures", "tasks"):
        assert named([f"`{tag_of(kind)[1]}`" for kind in members], of_tricks) == []


def test_every_part_mode_and_answer_is_named() -> None:
    assert named(fields(PARTS.values()) | set(PARTS), TEXTS["docs/spec.md"]) == []
    assert named({*MEANINGS, *fields([Asking])}, TEXTS["docs/tricks/uncertainty.md"]) == []
    shapes = [
        shape for module in (answers, model_answers) for shape in vars(module).values()
        if isinstance(shape, type) and shape.__module__ == module.__name__ and hasattr(shape, "model_fields")
    ]  # fmt: skip
    aliases = {field.alias or name for name, field in PredictRequest.model_fields.items()}
    assert named(fields(shapes) | fields([AttackRequest, ProjectRequest]) | aliases, TEXTS["docs/api.md"]) == []


def test_every_command_and_operation_is_named() -> None:
    commands = {f"temper {name}" for name in get_command(app).commands}
    assert named(commands, TEXTS["docs/client.md"]) == []
    operations = {
        name for module in (datasets, jobs, models) for shape in vars(module).values() if isinstance(shape, type)
        for name, value in vars(shape).items() if isinstance(value, Operation)
    }  # fmt: skip
    assert {"wait", "predict", "upload"} <= operations
    assert named(operations, TEXTS["docs/client.md"]) == []


def test_every_trick_has_a_page() -> None:
    told = "\n".join(text for page, text in TEXTS.items() if page.startswith(("docs/tricks/", "docs/decisions/")))
    files = [f"service/tricks/{path.name}" for path in (ROOT / "service/tricks").glob("[a-z]*.py")]
    assert [file for file in files if f"`{file}`" not in told] == []


def test_a_decision_has_its_parts() -> None:
    records = sorted(page for page in TEXTS if page.startswith("docs/decisions/"))
    numbers = [Path(page).name[:4] for page in records]
    assert len(numbers) >= 8
    assert len(set(numbers)) == len(numbers)
    for page, number in zip(records, numbers, strict=True):
        assert TEXTS[page].startswith(f"# {number}. ")
        assert re.findall(r"^\*\*([A-Z][a-z]+)[.*]", TEXTS[page], re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]
        assert f"({page.removeprefix('docs/')})" in TEXTS["docs/architecture.md"]


def anchors(text: str) -> set[str]:
    """The headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page])):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / place).resolve() if place else ROOT / page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_tests_that_are_named_exist(page: str) -> None:
    for path, test in re.findall(r"`((?:service|workers|temper|tests|migrations)/[\w/]+\.py)(?:::(\w+))?`", TEXTS[page]):
        assert (ROOT / path).is_file(), path
        if test:
            assert f"\ndef {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_make_knows_the_targets_that_are_named() -> None:
    targets = set(re.findall(r"\bmake (demo|test|lint|install|clean)\b", EVERYTHING))
    assert {"demo", "test"} <= targets
    known = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert known is not None
    assert targets <= {*known[1].split()}
