"""Datasets and members in this process, for benchmarks that measure the training loop itself."""

import io
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.data.columns import Columns
from service.data.formats import Origin
from service.data.parse import Request, parse
from service.inference.material import Material, prepare
from service.inference.model import Model, serving
from service.nets.network import Network
from service.resolving import Source, resolve
from service.settings import Settings
from service.spec import TrainSpec
from workers.training.loop import Epoch, train
from workers.training.run import start
from workers.training.task import Task

CPU = torch.device("cpu")
_HOME = Path(tempfile.mkdtemp(prefix="temper-bench-"))


def material(**fields: Any) -> Material:
    """What a spec on a built-in dataset trains on."""

    def lookup(name: str) -> Source:
        folder = _HOME / name
        if not folder.exists():
            folder.mkdir()
            subprocess.run([sys.executable, "-m", "service.data.builtin_rows", name, str(folder)], check=True, input=b"")
        return Source(f"ds_{name}", name, Columns(folder).description, folder)

    spec = TrainSpec.model_validate(resolve({"dataset": "digits", **fields}, lookup, Settings()).spec)
    return prepare(spec, Columns(_HOME / spec.dataset))


def synthetic(rows: int, inputs: int, **fields: Any) -> Material:
    """What a spec on `rows` random rows of `inputs` numbers with one of ten classes trains on."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(rows, inputs)).astype(np.float32)
    return of_arrays(f"random-{rows}x{inputs}", x, stream.integers(0, 10, rows), **fields)


def of_arrays(name: str, x: NDArray[Any], y: NDArray[Any], **fields: Any) -> Material:
    """What a spec on these arrays trains on; a name stands for its first arrays."""
    content = io.BytesIO()
    np.savez(content, x=x, y=y)
    return _of_file(name, "npz", content.getvalue(), **fields)


def of_columns(name: str, columns: Mapping[str, Any], **fields: Any) -> Material:
    """What a spec on a table of these columns trains on; a name stands for its first table."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return _of_file(name, "csv", "\n".join(lines).encode(), **fields)


def _of_file(name: str, suffix: str, content: bytes, **fields: Any) -> Material:
    folder = _HOME / name
    if not folder.exists():
        folder.mkdir()
        (folder / "source").write_bytes(content)
        parse(Request(source=str(folder / "source"), folder=str(folder), origin=Origin(filename=f"{name}.{suffix}"), declared={}))

    def lookup(name: str) -> Source:
        return Source(f"ds_{name}", name, Columns(folder).description, folder)

    spec = TrainSpec.model_validate(resolve({**fields, "dataset": name}, lookup, Settings()).spec)
    return prepare(spec, Columns(folder))


def trained(made: Material, member: int = 0) -> tuple[Network, list[Epoch]]:
    """A member at the end of its training, with its best weights where it has some, and its epochs."""
    run = start(made, (member,), CPU)
    epochs = [record for record in train(run, Task(made, run, CPU), tick_s=1e9) if isinstance(record, Epoch)]
    if run.only.best:
        run.network.load(run.only.best)
    return serving(run.network), epochs


def model(made: Material) -> Model:
    """All members of the spec, trained one after the other."""
    networks = tuple(trained(made, member)[0] for member in range(made.spec.ensemble.size))
    return Model(made.spec, made.encoding, made.classes, networks, 0)
