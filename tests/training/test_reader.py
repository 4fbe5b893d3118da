"""The readers that docs/export.md shows rebuild networks of every architecture from `spec.json` and `model.safetensors` alone."""

import importlib
import re
import sys
from collections.abc import Iterator
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
PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text()
BLOCKS = dict(re.findall(r"^```python (\w+)\.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
TRUNKS = {
    "mlp": ("reader", "perceptron"),
    "cnn": ("spatial", "cnn"),
    "resnet": ("spatial", "resnet"),
    "autoencoder": ("others", "autoencoder"),
    "recurrent": ("others", "recurrent"),
    "conv_autoencoder": ("coder", "conv_autoencoder"),
    "layers": ("lists", "layers"),
}
NAMES = [name for name, (dataset, _) in JOBS.items() if dataset != "gappy" and name != "quantiles"]


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the blocks as files, which Python imports from there."""
    for name, text in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in BLOCKS:
        sys.modules.pop(name, None)


def write(model: Model, folder: Path) -> None:
    """The two files, and no other."""
    contents = _contents(model, {})
    for name in ("spec.json", "model.safetensors"):
        (folder / name).write_bytes(contents[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_readers_give_the_services_answers(datasets: Any, name: str, readers: Path) -> None:
    model, x = made(datasets, name)
    write(model, readers)
    reader = importlib.import_module("reader")
    module, trunk = TRUNKS[model.spec.architecture.type]
    for member in range(model.size):
        with torch.no_grad():
            said = reader.answers(*reader.load(member), x, getattr(importlib.import_module(module), trunk))
        answers = ask(model, x, Asking(members=member).axes(model))
        assert said.keys() == answers.keys()
        for target, answer in answers.items():
            expected = (answer.probabilities if isinstance(answer, Classes) else answer.mean).double()
            assert float(expected.std(0).max()) > 0 or name.startswith("constant"), "rows differ"
            torch.testing.assert_close(said[target].double(), expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))


def test_every_architecture_is_read() -> None:
    assert {fields["architecture"]["type"] for _, fields in JOBS.values()} == TRUNKS.keys()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_reader_is_short_and_needs_little(name: str) -> None:
    lines = [line for line in BLOCKS[name].splitlines() if line.strip() and not re.match(r'\s*(#|""".*"""$)', line)]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 140
    assert set(re.findall(r"^(?:import|from) (\w+)", BLOCKS[name], re.MULTILINE)) <= {"json", "torch", "safetensors", *BLOCKS}
