"""Rows without the labels that are asked of them: parts on which nothing could be learnt, or what is monitored not measured."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from service.checks import Flaws
from service.data.columns import Columns
from service.data.labels import classes_of
from service.errors import Flaw
from service.partition import draw_parts
from service.spec import TrainSpec
from service.tricks.multitask import Target
from service.tricks.splits import Parts

LOSSES = ("loss", "adversarial_loss")
"""Monitors that are made of the losses of all targets."""


def labels(spec: TrainSpec, columns: Columns) -> Flaws:
    """The flaws of a resolved spec whose parts miss labels; rows are looked at only where their field says that they may."""
    targets, weight = spec.targets or (), spec.features.weight
    doubted = [
        target
        for target in targets
        if not target.from_inputs and target.doubtful(columns.description.field(target.name), watched(spec, target))
    ]
    weightless = weight is not None and columns.description.field(weight).min == 0
    if not doubted and not weightless:
        return
    parts = draw_parts(spec, columns)
    if weight is not None and not np.any(columns.read(weight)[parts.train] > 0):
        yield Flaw("/features/weight", "invalid-data", f"{weight!r} is 0 in all {len(parts.train)} training rows")
    read = {target.name: target.read_labels(columns) for target in doubted}
    train = torch.from_numpy(parts.train)
    yield from unlabelled(spec, [target.fitted(read[target.name][train], _classes(target, columns)) for target in doubted], read, parts)


def _classes(target: Target, columns: Columns) -> tuple[str, ...] | None:
    return classes_of(columns, columns.description.field(target.name)) if target.calibrates else None


def unlabelled(spec: TrainSpec, targets: Sequence[Target], read: Mapping[str, Tensor], parts: Parts) -> Flaws:
    """The flaws of some targets, fitted to the training rows, whose labels of all rows are given."""
    train, validation = torch.from_numpy(parts.train), torch.from_numpy(parts.validation)
    names = [target.name for target in spec.targets or ()]
    for target in targets:
        own = read[target.name]
        why = target.undefined(own[train], "loss")
        if why is not None:
            message = f"nothing can be learnt from the {len(train)} training rows: {why}"
            yield Flaw(f"/targets/{names.index(target.name)}/name", "invalid-data", message)
        needed = {"/early_stopping/monitor": watched(spec, target), "/ensemble/selection": spec.ensemble.selection and "loss"}
        for where, metric in needed.items() if len(validation) else ():
            why = target.undefined(own[validation], metric) if metric is not None else None
            if why is not None:
                yield Flaw(where, "inconsistent-spec", f"{metric} is not defined on the {len(validation)} validation rows: {why}")


def watched(spec: TrainSpec, target: Target) -> str | None:
    """The metric of a target that early stopping needs; None where it needs none."""
    if spec.early_stopping is None:
        return None
    monitor = spec.early_stopping.monitor
    if monitor in LOSSES:
        return "loss"
    own = monitor.removeprefix(f"{target.name}.")
    return own if own in target.monitors else None
