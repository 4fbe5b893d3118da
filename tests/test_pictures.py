"""The pictures of the pages: each stored one has a module that draws it, and what is drawn depends on the module alone."""

import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.pictures import __main__ as program
from benchmarks.pictures import gallery


def wobble(figure: Figure) -> None:
    """A picture whose numbers come from every global generator there is."""
    figure.subplots().plot([random.random(), float(np.random.rand()), float(torch.rand(()))])


@pytest.fixture
def wobbling(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("benchmarks.pictures.wobbling_line")
    module.draw = wobble
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "wobbling_line"


def test_a_stored_picture_has_a_module_that_draws_it() -> None:
    assert "dropout" in gallery.topics()
    assert {path.name for path in gallery.PICTURES.glob("*.svg")} == {gallery.path_of(topic).name for topic in gallery.topics()}


def test_no_picture_is_large() -> None:
    assert all(path.stat().st_size < 100_000 for path in gallery.PICTURES.glob("*.svg"))


def test_what_is_drawn_does_not_depend_on_what_was_drawn_before(wobbling: str) -> None:
    first = gallery.drawn(wobbling)
    assert first == gallery.drawn(wobbling)
    assert first.startswith(b"<?xml")
    figure_of_other_numbers = gallery.picture(wobble, height=gallery.HEIGHT, width=gallery.WIDTH)
    assert figure_of_other_numbers != first


def test_checking_tells_of_a_picture_that_would_be_another_and_writes_nothing(
    wobbling: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (gallery, program):
        monkeypatch.setattr(module, "PICTURES", tmp_path)
        monkeypatch.setattr(module, "topics", lambda: [wobbling])
    monkeypatch.setattr(gallery, "topics", lambda: [wobbling])
    path = gallery.path_of(wobbling)
    assert path.name == "wobbling-line.svg"
    assert program.main(["--check"]) == 1
    assert not path.exists()
    assert program.main(["wobbling-line"]) == 0
    assert program.main(["--check"]) == 0
    path.write_bytes(path.read_bytes() + b" ")
    assert program.main(["--check"]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        program.main(["no-such-topic"])
