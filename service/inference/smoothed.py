"""The smoothed classifier: what the deployed predictor says of a row under Gaussian noise, with a radius that holds (Cohen et al. 2019).

A row's noise follows from its numbers and the request's seed alone, so that its neighbours do not change its answer (decision 0015).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.errors import invalid
from service.inference.asking import ask
from service.inference.masks import digests
from service.inference.model import Model
from service.inference.pools import Classes
from service.seeds import derive
from service.tricks.certification import SELECTION, Smoothing
from service.tricks.modes import Axes
from service.tricks.streams import GOLDEN, Draws, Words, mix

ENTRIES = 4_000_000
"""Numbers of noisy copies that are held at once."""
WHERE = "/smoothing"


def check_smoothing(model: Model, axes: Axes) -> None:
    """Raises Invalid where there is no smoothed classifier: without classes, of a random predictor, where no input can move."""
    for target in model.spec.targets or ():
        if target.says != "classes":
            raise invalid(WHERE, "inconsistent-spec", f"smoothing is a vote over classes, and {target.name!r} is a number")
    if axes.dropout != "weight_scaled":
        raise invalid(WHERE, "inconsistent-spec", f"smoothing asks one function of the row: dropout weight_scaled, not {axes.dropout}")
    if not model.encoding.array and not model.encoding.numeric:
        raise invalid(WHERE, "inconsistent-spec", "the rows have categories only, and noise moves numbers")


def smooth(model: Model, x: Tensor, axes: Axes, smoothing: Smoothing) -> dict[str, Any]:
    """The `targets` of an answer on encoded rows x [N, ...]: per row the class or null, its radius or null, and the bound behind it.

    The radius is in L2 over the entries that noise moves, in the inputs' own unit: with probability 1 - alpha over the noise, the
    smoothed classifier says this class of every row nearer than that.
    """
    targets = model.spec.targets or ()
    counted = [_counts(model, row.unsqueeze(0), axes, smoothing) for row in x]
    return {
        target.name: _said([counts[target.name] for counts in counted], names or (), smoothing)
        for target, names in zip(targets, model.classes, strict=True)
    }


def _said(counts: list[Tensor], names: tuple[str, ...], smoothing: Smoothing) -> dict[str, Any]:
    """A target's columns: the first copies choose a class, the others estimate how probable it is."""
    chosen = [int(first.argmax()) for first, _ in counts]
    found = [smoothing.certificate(int(rest[best])) for best, (_, rest) in zip(chosen, counts, strict=True)]
    return {
        "prediction": [names[best] if radius is not None else None for best, (_, radius) in zip(chosen, found, strict=True)],
        "classes": list(names),
        "radius": [radius for _, radius in found],
        "probability_lower": [least for least, _ in found],
    }


def _counts(model: Model, row: Tensor, axes: Axes, smoothing: Smoothing) -> dict[str, Tensor]:
    """By target, how many of the first copies and of the others of a row [1, ...] are said to be of each class, [2, C]."""
    keys = copy_keys(row, axes.seed, smoothing.copies)
    movable = _movable(model)
    found: dict[str, list[Tensor]] = {}
    for part in np.array_split(keys, -(-len(keys) * row.numel() // ENTRIES)):
        noise = Draws(part[None]).normal(row.numel(), row.device, std=smoothing.sigma).view(-1, *row.shape[1:])
        answers = ask(model, row + (noise if movable is None else noise * movable), axes)
        for name, answer in answers.items():
            if not isinstance(answer, Classes):
                raise TypeError("a number has no votes")
            if not bool(answer.probabilities.isfinite().all()):
                raise invalid(f"{WHERE}/sigma", "non-finite", "what the network says under this noise is beyond the range of its numbers")
            found.setdefault(name, []).append(torch.nn.functional.one_hot(answer.prediction, answer.probabilities.shape[-1]))
    whole = {name: torch.cat(votes) for name, votes in found.items()}
    return {name: torch.stack([votes[:SELECTION].sum(0), votes[SELECTION:].sum(0)]) for name, votes in whole.items()}


def copy_keys(row: Tensor, seed: int, copies: int) -> Words:
    """Keys of a row's noisy copies: outputs 1, 2, … of splitmix64 from a mix of the row's digest and the request's seed."""
    own = mix(digests(row) ^ np.uint64(derive(seed, 0, "smoothing")))
    return mix(own + np.arange(1, copies + 1, dtype=np.uint64) * GOLDEN)


def _movable(model: Model) -> Tensor | None:
    """Which entries of a row get noise: all of an array, the numeric columns of a table."""
    plain = model.encoding.plain
    return torch.cat([torch.ones(model.encoding.shape[0] - plain), torch.zeros(plain)]) if plain else None
