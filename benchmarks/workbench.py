"""Datasets and members in this process, for benchmarks that measure the training loop itself."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.data.columns import Columns
from service.data.formats import Origin
from service.data.parse import Request, parse
from service.inference.material import Material, prepare
from service.resolving import Source, resolve
from service.settings import Settings
from service.spec import TrainSpec

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
    x, y = stream.normal(size=(rows, inputs)).astype(np.float32), stream.integers(0, 10, rows)
    return arrays(f"random-{rows}x{inputs}", x, y, **fields)


def arrays(name: str, x: NDArray[Any], y: NDArray[Any], **fields: Any) -> Material:
    """What a spec on inputs x [N, ...] and targets y [N] trains on, which are stored under that name the first time."""
    folder = _HOME / name
    if not folder.exists():
        folder.mkdir()
        np.savez(folder / "source", x=x, y=y)
        (folder / "source.npz").rename(folder / "source")
        parse(Request(source=str(folder / "source"), folder=str(folder), origin=Origin(filename=f"{name}.npz"), declared={}))

    def lookup(name: str) -> Source:
        return Source(f"ds_{name}", name, Columns(folder).description, folder)

    spec = TrainSpec.model_validate(resolve({**fields, "dataset": name}, lookup, Settings()).spec)
    return prepare(spec, Columns(folder))
