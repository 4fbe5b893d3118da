"""How far answers move when rows are changed as in training, and how well they hold under noise."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import blocks
from service.inference.asking import ask
from service.inference.measuring import Inquiry, center, measure_answers
from service.inference.pools import joined
from service.tricks.augmentation import GaussianNoise
from service.tricks.augmenting import Augmented
from service.tricks.modes import Asking
from service.tricks.streams import Draws, row_keys

SIGMAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Standard deviations of the noise, as shares of the range of the training rows."""
METRICS = ("accuracy", "rmse", "loss")
"""What is told of answers under noise: the first that there is."""


def invariance(inquiry: Inquiry) -> dict[str, float]:
    """By transform the mean |f(Tx) - T f(x)| of the best member on test: T f(x) is f(x), but for mixed rows, whose answers are mixed."""
    found: dict[str, float] = {}
    types = [transform.type for transform in inquiry.model.spec.augmentation]
    for place, transform in enumerate(inquiry.model.spec.augmentation):
        name = transform.type if types.count(transform.type) == 1 else f"{transform.type}.{place}"
        found[name] = _gap(inquiry, Augmented((transform,), (0,), classes={}, plain=inquiry.material.encoding.plain))
    return found


def _gap(inquiry: Inquiry, changed: Augmented) -> float:
    """The mean over test rows and entries of the first target's answer."""
    axes, target, rows = Asking(members="best").axes(inquiry.model), inquiry.targets[0].name, inquiry.parts["test"]
    said = center(inquiry.answers("test", axes)[target])
    total = torch.zeros((), dtype=torch.float64)
    for at, x in _blocks(inquiry):
        numbers = torch.from_numpy(rows[at])
        moved, wanted = changed(x, {target: said[at]}, numbers, epoch=0)
        answer = center(ask(inquiry.model, moved, axes, beat=inquiry.beat)[target])
        total += (answer - wanted[target]).abs().sum()
    return float(total) / said.numel()


def noise(inquiry: Inquiry) -> dict[str, Any] | None:
    """What the default mode is worth on test rows with Gaussian noise, where the job trained with some; null else.

    Sigma is a share of the range that the training rows have: of the array, or of each numeric column; categories stay.
    """
    if not any(isinstance(transform, GaussianNoise) for transform in inquiry.model.spec.augmentation):
        return None
    axes, rows = Asking().axes(inquiry.model), inquiry.parts["test"]
    curve, used = [], ""
    for sigma in SIGMAS:
        parts = [ask(inquiry.model, _noised(inquiry, at, x, sigma), axes, beat=inquiry.beat) for at, x in _blocks(inquiry)]
        answers = {target.name: joined([part[target.name] for part in parts]) for target in inquiry.targets}
        found = measure_answers(answers, inquiry.model, inquiry.material, rows)
        prefix = "" if len(inquiry.targets) == 1 else f"{inquiry.targets[0].name}."
        used = next(prefix + name for name in METRICS if prefix + name in found)
        curve.append({"sigma": sigma, "value": found[used]})
    return {"metric": used, "unit": "range", "by_sigma": curve}


def _noised(inquiry: Inquiry, at: NDArray[np.int64], x: Tensor, sigma: float) -> Tensor:
    """Test rows at these places with noise; each row's is the same at every sigma, but for its size."""
    encoding = inquiry.material.encoding
    keys = row_keys((0,), inquiry.parts["test"][at][None], epoch=0, place=0)
    spreads = [encoding.array.high - encoding.array.low] if encoding.array else [number.high - number.low for number in encoding.numeric]
    noise = Draws(keys).normal(x[:1].numel() - encoding.plain, x.device).view(len(x), *x.shape[1:-1], -1)
    noise *= sigma * torch.tensor(spreads, dtype=torch.float32)
    return x + F.pad(noise, (0, encoding.plain))


def _blocks(inquiry: Inquiry) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Places among the test rows with the rows' inputs as float32, block by block."""
    rows = inquiry.parts["test"]
    for at in blocks(np.arange(len(rows)), 4 * math.prod(inquiry.material.inputs.shape[1:])):
        yield at, torch.from_numpy(inquiry.material.inputs[rows[at]]).float()
