"""A job's augmentation bound to its material: batches and rows as training sees them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.inference.material import Material
from service.tricks.augmenting import Augmented, Labels


class Seen(NamedTuple):
    """Training rows: their numbers [n] and inputs as stored [n, ...], and by epoch inputs and labels as training saw them."""

    rows: NDArray[np.int64]
    stored: Tensor
    epochs: list[tuple[Tensor, Labels]]


def augmented(material: Material, members: Sequence[int]) -> Augmented:
    """What becomes of the batches of these members."""
    spec = material.spec
    seeds = [spec.ensemble.seed(member, "augmentation", seed=spec.seed) for member in members]
    widths = dict(zip((target.name for target in spec.targets or ()), material.network.widths, strict=True))
    return Augmented(spec.augmentation, seeds, classes=widths, plain=material.encoding.plain)


def seen(material: Material, member: int, *, count: int, epochs: int) -> Seen:
    """The first rows of a member's first batch, and what training saw in their place in its first epochs.

    Batches are drawn again as training draws them: with whom a row is mixed depends on who is in its batch.
    """
    spec, changed = material.spec, augmented(material, [member])
    own = spec.ensemble.rows(member, material.parts.train, seed=spec.seed)
    size = len(own) if spec.batch_size == "full" else min(int(spec.batch_size or 64), len(own))
    stream = torch.Generator().manual_seed(spec.ensemble.seed(member, "order", seed=spec.seed))
    orders = [torch.randperm(len(own), generator=stream).numpy() for _ in range(epochs)]
    shown = orders[0][: min(count, size)]
    found: list[tuple[Tensor, Labels]] = []
    for epoch, order in enumerate(orders):
        places = [int(np.flatnonzero(order == place)[0]) for place in shown]
        batches = {at // size: order[at // size * size :][:size] for at in places}
        given = {at: changed(*material.rows(own[batch]), torch.from_numpy(own[batch]), epoch=epoch) for at, batch in batches.items()}
        rows = [(given[at // size], at % size) for at in places]
        labels = {name: torch.stack([batch[1][name][at] for batch, at in rows]) for name in material.labels}
        found.append((torch.stack([batch[0][at] for batch, at in rows]), labels))
    return Seen(own[shown], material.rows(own[shown])[0].float(), found)
