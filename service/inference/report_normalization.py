"""The report's `normalization` and `constant_features`: what inputs and targets were shifted and divided by, and what never changed."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import blocks
from service.inference.material import Material
from service.tricks.normalization import beyond_rounding

MOST_LISTED = 200
"""Constant entries that are listed; the sums are over all of them."""


def normalization(material: Material) -> dict[str, Any]:
    """What inputs and targets were shifted and divided by, in their own units."""
    names = ("min", "range") if material.spec.preprocessing.normalize == "minmax" else ("mean", "std")
    shift, scale = material.preprocess.shift, material.preprocess.scale
    if material.encoding.array:
        found: dict[str, Any] = {material.encoding.array.name: {names[0]: shift.squeeze().tolist(), names[1]: scale.squeeze().tolist()}}
    else:
        shift, scale = shift.expand(material.encoding.shape), scale.expand(material.encoding.shape)
        found = {c.name: {names[0]: float(shift[i]), names[1]: float(scale[i])} for i, c in enumerate(material.encoding.numeric)}
    for target, own in zip(material.spec.targets or (), material.scales, strict=True):
        if target.name in material.originals:
            found[target.name] = {"mean": own.mean.squeeze().tolist(), "std": own.std.squeeze().tolist()}
    return found


def constant_features(material: Material) -> dict[str, Any] | None:
    """Inputs of one value in all training rows, and what they add to a squared error in the inputs' own unit; null without any.

    They are taken for the training value whatever comes, so that a row adds (x - value)^2: nothing in training, where all have
    it, and what deviates by in the other parts. Means over a part's rows, of each and in sum.
    """
    places = np.argwhere(np.broadcast_to(material.preprocess.constant, material.encoding.shape))
    if not len(places):
        return None
    index = tuple(places.T)
    value = material.preprocess.shift.expand(material.encoding.shape)[index]
    added = {name: _added(material, rows, index, value) for name, rows in material.parts._asdict().items() if len(rows)}
    listed = [
        {**_named(material, place), "value": float(value[i]), **{part: float(sums[i]) for part, sums in added.items()}}
        for i, place in enumerate(places[:MOST_LISTED].tolist())
    ]
    return {"count": len(places), **{part: float(sums.sum()) for part, sums in added.items()}, "features": listed}


def _added(material: Material, rows: NDArray[np.int64], index: tuple[NDArray[np.int64], ...], value: Tensor) -> NDArray[np.float64]:
    """The mean over rows of each constant entry's squared deviation."""
    sums, places = np.zeros(len(value)), np.ravel_multi_index(index, material.encoding.shape)
    for chosen in blocks(rows, 8 * math.prod(material.encoding.shape)):
        block = material.inputs[chosen].reshape(len(chosen), -1)
        own = torch.from_numpy(block[:, places].astype(np.float32))
        sums += beyond_rounding(own - value, value).double().square().sum(0).numpy()
    return np.asarray(sums / len(rows))


def _named(material: Material, place: list[int]) -> dict[str, Any]:
    """The field, and in an array where in it."""
    array = material.encoding.array
    return {"field": array.name, "entry": place} if array else {"field": material.encoding.numeric[place[0]].name, "entry": None}
