"""Stored datasets, and members trained on them in this process, by the loop that workers run."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from service.data import builtin_rows
from service.data.columns import Columns
from service.data.formats import Origin
from service.data.parse import Request, parse
from service.inference.material import Material, prepare
from service.inference.measuring import asked, measure_answers
from service.inference.model import Model, serving
from service.resolving import Source, resolve
from service.settings import Settings
from service.spec import TrainSpec
from service.tricks.modes import Axes
from workers.training.checkpointing import pack, unpack
from workers.training.loop import Epoch, train
from workers.training.run import Run, build, start
from workers.training.task import Task

CPU = torch.device("cpu")
Frozen = tuple[bytes, bytes]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits depend on the number of threads, and other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Trained:
    """A member after training: its run, and every finished epoch."""

    run: Run
    epochs: list[Epoch]

    def series(self, name: str) -> list[float]:
        """One measured value, epoch by epoch."""
        return [epoch.values[name] for epoch in self.epochs]

    @property
    def weights(self) -> bytes:
        """The kept weights as they are stored."""
        return pack(self.run.only.best)


class Bench:
    """Datasets by name, and what is trained on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("digits", "diabetes"):
            (folder / name).mkdir()
            builtin_rows.write(name, folder / name)

    def table(self, name: str, columns: Mapping[str, Any], **schema: Any) -> str:
        """Store a CSV file of columns, in which None is an empty cell, and return its name."""
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join("" if value is None else str(value) for value in row) for row in rows)]
        return self._store(name, "\n".join(lines).encode(), "csv", schema)

    def arrays(self, name: str, **arrays: NDArray[Any]) -> str:
        """Store an NPZ file of arrays `x`, `y` and return its name; NaN in `x` is a missing entry."""
        content = io.BytesIO()
        np.savez(content, **arrays)
        return self._store(name, content.getvalue(), "npz", {"missing": "nan"})

    def gappy(self) -> str:
        """120 rows of two inputs, a class and a number, each missing in a third of the rows, in runs."""
        stream = np.random.default_rng(0)
        x = stream.normal(size=(120, 2)).round(4)
        kind = ["up" if value > 0 else "down" for value in x[:, 0]]
        return self.table(
            "gappy",
            {
                "a": x[:, 0],
                "b": x[:, 1],
                "kind": [None if i % 30 < 12 else value for i, value in enumerate(kind)],
                "size": [None if i % 40 < 9 else round(3 * value + 7, 3) for i, value in enumerate(x[:, 1])],
            },
            targets=["kind", "size"],
        )

    def several(self) -> str:
        """160 rows of three inputs, a distribution over four classes, a value in [-1, 1] and a class, each with some missing."""
        stream = np.random.default_rng(0)
        x = stream.normal(size=(160, 3)).astype(np.float32)
        policy = np.exp(2 * x @ stream.normal(size=(3, 4)))
        policy = (policy / policy.sum(1, keepdims=True)).astype(np.float32)
        value = np.tanh(x[:, 0] - x[:, 1])
        policy[::5], value[1::3] = np.nan, np.nan
        kind = np.where(x[:, 2] > 0, "up", "down")
        return self.arrays("several", x=x, policy=policy, value=value.astype(np.float32), kind=kind)

    def photos(self) -> str:
        """The digits as images [8, 8] of which nothing is declared."""
        found = load_digits()
        return self.arrays("photos", x=found.images, y=found.target)

    def _store(self, name: str, content: bytes, suffix: str, schema: dict[str, Any]) -> str:
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir()
            source = folder / "source"
            source.write_bytes(content)
            parse(Request(source=str(source), folder=str(folder), origin=Origin(filename=f"{name}.{suffix}"), declared=schema))
        return name

    def _source(self, name: str) -> Source:
        return Source(f"ds_{name}", name, Columns(self.folder / name).description, self.folder / name)

    def material(self, dataset: str, **fields: Any) -> Material:
        """What a posted spec trains on; a linear model without any trick where nothing else is said."""
        raw = {"dataset": dataset, "architecture": {"type": "mlp", "hidden": []}, **fields}
        spec = TrainSpec.model_validate(resolve(raw, self._source, Settings()).spec)
        return prepare(spec, Columns(self.folder / dataset))

    def train(self, material: Material, member: int = 0, *, prepared: Callable[[Run], None] | None = None) -> Trained:
        """A member from its first step to its last; `prepared` may change it before the first."""
        run = start(material, (member,), CPU)
        if prepared is not None:
            prepared(run)
        epochs = [record for record in train(run, Task(material, run, CPU), tick_s=1e9) if isinstance(record, Epoch)]
        return Trained(run, epochs)

    def model(self, material: Material, *members: Trained) -> Model:
        """The members as a model that can be asked."""
        networks = []
        for member in members:
            network = build(material, None)
            network.load(unpack(member.weights))
            networks.append(serving(network))
        return Model(material.spec, material.encoding, material.classes, tuple(networks), 0)

    def measure(self, model: Model, material: Material, rows: NDArray[np.int64], axes: Axes) -> dict[str, float | None]:
        """Metrics by name over some rows."""
        return measure_answers(asked(model, material, rows, axes), model, material, rows)

    def freeze(self, run: Run) -> Frozen:
        """A run as the bytes of a checkpoint."""
        weights, rest = run.capture()
        content = io.BytesIO()
        torch.save(rest, content)
        return pack(weights), content.getvalue()

    def thaw(self, material: Material, members: int | tuple[int, ...], frozen: Frozen, *, stacked: bool = False) -> Run:
        """A fresh run that goes on where the checkpoint was taken."""
        run = start(material, members if isinstance(members, tuple) else (members,), CPU, stacked=stacked)
        run.restore(unpack(frozen[0]), torch.load(io.BytesIO(frozen[1]), weights_only=True))
        return run

    def flat(self, tensors: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """All numbers of some tensors, in the order of their names."""
        return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("datasets"))
