"""A dataset as a network sees it: encoded inputs, labels, parts, and the normalizers of the training rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.data.columns import Columns
from service.data.encoding import Encoding, fit
from service.data.labels import classes_of, labels_of, numbers_of
from service.nets.network import NetworkSpec, Scale
from service.spec import TrainSpec
from service.tricks import splits
from service.tricks.multitask import Target
from service.tricks.normalization import Normalize


@dataclass(frozen=True)
class Material:
    """Everything that spec and dataset determine before any weight exists; the same for every shard of a job."""

    spec: TrainSpec
    network: NetworkSpec
    encoding: Encoding
    preprocess: Normalize
    scales: tuple[Scale, ...]
    classes: tuple[tuple[str, ...] | None, ...]
    parts: splits.Parts
    inputs: NDArray[Any]
    """All rows, encoded [N, ...], of their own type."""
    labels: dict[str, Tensor]
    """By target: int64 [N], -1 missing, or float32 [N, D] in normalized units, NaN missing."""
    originals: dict[str, NDArray[np.float64]]
    """Regression targets in their own unit [N, D]."""

    def rows(self, part: NDArray[np.int64]) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs and labels of some rows."""
        index = torch.from_numpy(part)
        return torch.from_numpy(self.inputs[part]), {name: labels[index] for name, labels in self.labels.items()}

    @property
    def movable(self) -> Tensor | None:
        """Which entries of an encoded row adversarial training moves, 1 or 0: no categories and indicators; None: all."""
        plain = self.encoding.plain
        return torch.cat([torch.ones(self.encoding.shape[0] - plain), torch.zeros(plain)]) if plain else None

    @property
    def kind(self) -> str:
        """`table`, `image` or `tensor`."""
        return self.encoding.array.kind if self.encoding.array else "table"


def prepare(spec: TrainSpec, columns: Columns) -> Material:
    """The material of a resolved spec."""
    targets = spec.targets or ()
    description = columns.description
    parts = draw_parts(spec, columns)
    fields = spec.features.select(description.inputs(tuple(target.name for target in targets)))
    encoding = fit(columns, fields, parts.train, spec.features)
    inputs = encoding.read(columns)
    kind = encoding.array.kind if encoding.array else "table"
    preprocess = spec.preprocessing.fit(inputs, parts.train, kind=kind, plain=encoding.plain)
    labels: dict[str, Tensor] = {}
    originals: dict[str, NDArray[np.float64]] = {}
    scales, classes, widths = [], [], []
    for target in targets:
        field = description.field(target.name)
        if target.task == "classification":
            names = classes_of(columns, field)
            labels[target.name] = torch.from_numpy(labels_of(columns, field))
            scale = Scale(torch.zeros(1), torch.ones(1))
        else:
            names = None
            originals[target.name] = numbers_of(columns, field)
            scale = target_scale(originals[target.name][parts.train], standardize=spec.preprocessing.normalize_targets)
            normalized = (originals[target.name] - scale.mean.double().numpy()) / scale.std.double().numpy()
            labels[target.name] = torch.from_numpy(normalized.astype(np.float32))
        scales.append(scale)
        classes.append(names)
        widths.append(len(names) if names is not None else originals[target.name].shape[1])
    network = NetworkSpec(spec.architecture, encoding.shape, targets, tuple(widths))
    return Material(
        spec, network, encoding, preprocess, tuple(scales), tuple(classes), parts, inputs, labels, originals
    )  # fmt: skip


def draw_parts(spec: TrainSpec, columns: Columns) -> splits.Parts:
    """The rows of each part of a resolved spec."""
    split = spec.split if spec.split is not None else splits.Split()
    first = next((target for target in spec.targets or () if target.task == "classification"), None)
    needed = None if isinstance(split, str) else split
    return splits.draw(
        split,
        columns.rows,
        splits.Columns(
            strata=_strata(first, columns),
            groups=columns.read(needed.group) if needed and needed.group else None,
            times=columns.read(needed.time) if needed and needed.time else None,
            parts=columns.parts(),
        ),
    )


def _strata(target: Target | None, columns: Columns) -> NDArray[np.int64] | None:
    return labels_of(columns, columns.description.field(target.name)) if target is not None else None


def target_scale(values: NDArray[np.float64], *, standardize: bool) -> Scale:
    """Mean and standard deviation of training targets [N, D]; constant ones are divided by 1."""
    width = values.shape[1]
    known = values[~np.isnan(values).any(axis=1)]
    if not standardize or not len(known):
        return Scale(torch.zeros(width), torch.ones(width))
    mean, std = known.mean(axis=0), known.std(axis=0)
    std = np.where(std <= np.finfo(np.float32).eps * np.abs(known).max(axis=0), 1.0, std)
    return Scale(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))
