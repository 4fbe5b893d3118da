"""Imports run downwards only, without a cycle, and each heavy library stays where the architecture put it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up; a module imports from its own layer and those before it.
LAYERS = (
    tuple(f"service.{name}" for name in ("values", "blocks", "errors", "settings", "seeds", "flaws", "json_text", "lifeline", "onnx")),
    ("service.logs", "service.tracing"),
    ("service.tricks", "service.storage", "service.data", "migrations"),
    ("service.nets",),
    ("service.spec",),
    ("service.inference",),
    ("service.queue", "service.routes", "service.dashboard", "workers"),
    ("service.app",),
)
SPEC = LAYERS.index(("service.spec",))  # what else lies in `service` itself is a piece of the spec
# Library -> the only places that import it.
WEB = ("service.routes", "service.app", "service.dashboard")
QUEUE = ("service.queue", "workers")
S3 = ("service.storage.bucket",)
HOMES = {
    "fastapi": WEB,
    "starlette": WEB,
    "celery": QUEUE,
    "kombu": QUEUE,
    "sqlalchemy": ("service.storage", "service.data.builtin", "service.routes", "service.app", "workers", "migrations"),
    "alembic": ("service.storage", "migrations"),
    "boto3": S3,
    "botocore": S3,
    "s3transfer": S3,
    "numba": ("service.tricks.fused",),
    "torch": ("service.tricks", "service.nets", "service.inference", "service.routes", "service.app", "workers.training"),
}
TORCH_FREE = ("service.storage", "service.data", "service.queue", "service.settings", "service.errors", "workers.app", "workers.tasks",
              "workers.supervisor", "workers.messages", "temper", "migrations")  # fmt: skip
# What `pip install temper[server,s3]` brings, by itself or with the framework that it belongs to.
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"], *PROJECT["optional-dependencies"]["s3"]]
ALONG = {"starlette", "kombu", "pydantic-core", "botocore", "s3transfer"}
DECLARED = {re.split(r"[\[>=]", requirement)[0] for requirement in REQUIREMENTS} | ALONG
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "multipart": "python-multipart"}
OURS = {"service", "workers", "temper", "migrations"}
CLIENT = {*sys.stdlib_module_names, "httpx2", "numpy", "rich", "typer", "temper"}
LONGEST_FILE, LONGEST_FUNCTION = 300, 40


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name(path): path for package in ("service", "workers", "temper", "migrations") for path in sorted((ROOT / package).rglob("*.py"))}


def inside(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def layer(module: str) -> int:
    named = next((height for height, places in enumerate(LAYERS) if inside(module, places)), None)
    return named if named is not None else SPEC if "." in module else 0


def imports(module: str, *, top: bool = False) -> Iterator[str]:
    """The modules that a file imports; `top`: only what importing the file itself imports."""
    tree = ast.parse(FILES[module].read_text())
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & FILES.keys()
            if names - FILES.keys():
                yield node.module


GRAPH = {module: {*imports(module)} for module in FILES}


def loads(module: str) -> set[str]:
    """All that importing a module brings in, packages above it included."""
    found, todo = set[str](), [module]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += [*GRAPH.get(current, ()), *([current.rpartition(".")[0]] if current in FILES and "." in current else [])]
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_run_downwards(module: str) -> None:
    for imported in GRAPH[module] & FILES.keys():
        if inside(module, ("temper",)):
            assert not inside(imported, ("workers",)), imported
        else:
            assert layer(imported) <= layer(module), f"{imported} is above"
            assert not inside(imported, ("temper",)), imported
            assert inside(module, ("workers",)) or not inside(imported, ("workers",)), imported


def test_no_cycle() -> None:
    assert [*TopologicalSorter({module: GRAPH[module] & FILES.keys() for module in FILES}).static_order()]


@pytest.mark.parametrize("module", FILES)
def test_heavy_libraries_stay_at_home(module: str) -> None:
    for imported in GRAPH[module]:
        library = imported.partition(".")[0]
        at_home = library not in HOMES or inside(module, HOMES[library]) or (library == "torch" and layer(module) == SPEC)
        assert at_home, imported


@pytest.mark.parametrize("module", [module for module in FILES if inside(module, TORCH_FREE)])
def test_torch_is_not_loaded(module: str) -> None:
    assert not [loaded for loaded in loads(module) if loaded.partition(".")[0] == "torch"]


@pytest.mark.parametrize("module", [module for module in FILES if inside(module, ("temper",))])
def test_the_client_needs_no_server_dependency(module: str) -> None:
    assert {imported.partition(".")[0] for imported in imports(module, top=True)} <= CLIENT


@pytest.mark.parametrize("module", [module for module in FILES if not inside(module, ("temper",))])
def test_every_library_is_declared(module: str) -> None:
    for library in {imported.partition(".")[0] for imported in GRAPH[module]} - sys.stdlib_module_names - OURS:
        assert DISTRIBUTIONS.get(library, library).replace("_", "-") in DECLARED, library


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_are_short(module: str) -> None:
    text = FILES[module].read_text()
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, f"{node.name} is too long"
