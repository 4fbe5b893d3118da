"""The report's `gradients`: how much of the loss reached each layer, and each step of a sequence, in the course of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOMENTS = ("first", "early", "best")


def gradients(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Norms at the `first` step, `early` and at the `best`, means over members; null where training did not record them.

    `steps` made before each of them; `layers.<layer>`: norms over a layer's parameters, null where none of them learns;
    `over_time.<layer>`: of a recurrent layer, by what it reads at each of the `time_steps`, from 1. A moment
    that no member reached is null.
    """
    told = [summary["gradients"] for summary in summaries if summary.get("gradients") is not None]
    if not told:
        return None
    found = {moment: [own[moment] for own in told if own[moment] is not None] for moment in MOMENTS}
    first = found["first"][0]
    layers = {name: {moment: _mean([own["layers"][name] for own in each]) for moment, each in found.items()} for name in first["layers"]}
    over_time = {
        name: {
            moment: [_mean(values) for values in zip(*(own["over_time"][name] for own in each), strict=True)] or None
            for moment, each in found.items()
        }
        for name in first["over_time"]
    }
    steps = {moment: _mean([own["step"] for own in each]) for moment, each in found.items()}
    return {"steps": steps, "layers": layers, "over_time": over_time, "time_steps": first["time_steps"]}


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
