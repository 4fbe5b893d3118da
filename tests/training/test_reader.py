"""The reader that docs/export.md shows rebuilds networks from `spec.json` and `model.safetensors` alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from service.inference.asking import ask
from service.inference.model import Model
from service.inference.pools import Classes
from service.tricks.modes import Asking
from tests.training.test_exporting import JOBS, datasets, made
from workers.training.publishing import _contents

__all__ = ["datasets"]  # a fixture
PAGE = Path(__file__).parents[2] / "docs/export.md"
READ = ("mlp", "cnn", "autoencoder")
NAMES = [
    name
    for name, (dataset, fields) in JOBS.items()
    if fields["architecture"]["type"] in READ and dataset != "gappy" and name != "quantiles"
]


def reader() -> str:
    """The block as the page has it."""
    (block,) = [
        block for block in re.findall(r"^```python run\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL) if "def answers" in block
    ]
    return str(block)


def read(model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the block defines, run where the model's files lie."""
    for name, content in _contents(model, {}).items():
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder)
    defined: dict[str, Any] = {}
    exec(reader().split("# seven", maxsplit=1)[0], defined)  # noqa: S102 - our own page
    return defined


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_reader_gives_the_services_answers(datasets: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made(datasets, name)
    defined = read(model, tmp_path, monkeypatch)
    for member in range(model.size):
        with torch.no_grad():
            said = defined["answers"](*defined["load"](member), x)
        answers = ask(model, x, Asking(members=member).axes(model))
        assert said.keys() == answers.keys()
        for target, answer in answers.items():
            expected = answer.probabilities if isinstance(answer, Classes) else answer.mean
            torch.testing.assert_close(said[target].double(), expected.double(), rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_reader_is_short_and_needs_little() -> None:
    block = reader().split("# seven", maxsplit=1)[0]
    assert len(block.strip().splitlines()) <= 55
    assert set(re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)) <= {"json", "torch", "safetensors"}
