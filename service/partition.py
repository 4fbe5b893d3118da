"""The rows of each part of a resolved spec: which train, validate and test."""

import numpy as np
from numpy.typing import NDArray

from service.data.columns import Columns
from service.data.labels import labels_of
from service.spec import TrainSpec
from service.tricks import splits
from service.tricks.multitask import Target


def draw_parts(spec: TrainSpec, columns: Columns) -> splits.Parts:
    """The rows of each part of a resolved spec."""
    split = spec.split if spec.split is not None else splits.Split()
    first = next((target for target in spec.targets or () if target.stratifies), None)
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
