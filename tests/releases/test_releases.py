"""What earlier releases made still holds: specs are accepted and mean the same, models answer the same, old workers can go on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.data import builtin_rows
from service.data.columns import Columns
from service.inference.asking import ask, passes, quiet
from service.inference.model import Model, from_files
from service.inference.predicting import predict
from service.inference.rows import read_rows
from service.resolving import Source, resolve
from service.settings import Settings
from service.spec import TrainSpec
from service.storage import jobs, migrate
from service.storage.sessions import Database
from service.tricks.modes import Asking, Axes

ONE_MASK_FOR_ALL_ROWS = {"0.1.0"}
HERE = Path(__file__).parent
RELEASES = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name[0].isdigit())
MODELS = [
    pytest.param(home, id=f"{home.parent.name} {home.name}") for release in RELEASES for home in sorted(release.iterdir()) if home.is_dir()
]


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Columns]:
    found = {}
    for name in ("digits", "diabetes"):
        folder = tmp_path_factory.mktemp(name)
        builtin_rows.write(name, folder)
        found[name] = Columns(folder)
    return found


def within(old: Any, new: Any, place: str = "") -> list[str]:
    """Where a new value does not hold all that the old one said; it may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [found for key in old for found in (within(old[key], new[key], f"{place}/{key}") if key in new else [f"{place}/{key}"])]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [found for i, (a, b) in enumerate(zip(old, new, strict=True)) for found in within(a, b, f"{place}/{i}")]
    return [] if old == new else [place]


def test_every_release_was_kept() -> None:
    assert {path.name for path in RELEASES} >= {"0.1.0"}
    assert all((release / "life.json").exists() for release in RELEASES)


@pytest.mark.parametrize("home", MODELS)
def test_a_spec_resolves_to_what_it_did(home: Path, builtin: dict[str, Columns]) -> None:
    posted = json.loads((home / "kept.json").read_text())["posted"]
    columns = builtin[posted["dataset"]]

    def lookup(name: str) -> Source:
        return Source("ds_x", name, columns.description, columns.folder)

    resolved = resolve({**posted, "name": home.name}, lookup, Settings()).spec
    kept = json.loads((home / "spec.json").read_text())
    assert [place for place in within(kept, resolved) if place != "/dataset"] == []
    assert within(kept, TrainSpec.model_validate(kept).model_dump(mode="json")) == []


def same_under_shared_masks(model: Model, x: Tensor, axes: Axes, answers: dict[str, Any]) -> None:
    """The masks that all rows shared are still those that they were, though they answer attacks alone now (decision 0015)."""
    said = list(passes(model, x, axes, fresh=False, beat=quiet))
    for target, kept in answers.items():
        found = sum((answer[target].logits.double().softmax(-1) * weights.view(-1, 1, 1)).sum(0) for answer, weights in said)
        torch.testing.assert_close(found, torch.tensor(kept["probabilities"], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("home", MODELS)
def test_a_model_answers_as_it_did(home: Path) -> None:
    model = from_files(lambda name: (home / name).read_bytes())
    kept = json.loads((home / "kept.json").read_text())
    x = torch.from_numpy(read_rows(kept["inputs"], model.encoding, most=100)).float()
    assert kept["answers"]
    for mode, answers in kept["answers"].items():
        axes = Asking.model_validate({"mode": mode, "samples": 7, "seed": 3}).axes(model)
        if axes.random and home.parent.name in ONE_MASK_FOR_ALL_ROWS:
            same_under_shared_masks(model, x, axes, answers)
            continue
        found = json.loads(json.dumps(predict(model, x, axes)))
        assert found.keys() == answers.keys()
        for target, said in answers.items():
            assert found[target]["prediction"] == (said["prediction"] if "classes" in said else pytest.approx(said["prediction"], rel=1e-5))
            for name in said.keys() & {"probabilities"}:
                torch.testing.assert_close(torch.tensor(found[target][name]), torch.tensor(said[name]), rtol=0, atol=1e-6)
    assert ask(model, x, Asking().axes(model)).keys() == kept["answers"]["single"].keys()


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_an_old_worker_goes_on_beside_the_new_schema(release: Path, tmp_path: Path) -> None:
    """Its statements, word for word, on a database that the newest release has upgraded."""
    kept = json.loads((release / "life.json").read_text())
    url = f"sqlite:///{tmp_path / 'temper.db'}"
    migrate.upgrade(url)
    database = Database(url)
    for statement, parameters in kept["statements"]:
        with database.write() as c:
            c.exec_driver_sql(statement, tuple(parameters))
    with database.read() as c:
        job = jobs.get(c, "default", kept["job"])
    assert (job.state, job.stop_reason, job.model_id) == ("succeeded", "epochs", "mdl_01000000000000000000000000")
    database.close()
