"""Batches: one random order an epoch, gathered block by block, handed out as views."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import block_rows
from service.inference.material import Material

Labels = dict[str, Tensor]


class Batch(NamedTuple):
    """Some rows [B, ...], of a stack [K, B, ...]: inputs as stored, labels by target, and their numbers in the dataset."""

    x: Tensor
    labels: Labels
    rows: Tensor


class Batches:
    """The batches of one member's rows [n], or of a stack's [K, n]; a last short batch is kept.

    `mirror` gives labels that are the inputs themselves, as they are before anything changes them.
    """

    def __init__(
        self,
        inputs: NDArray[Any],
        labels: Labels,
        rows: NDArray[np.int64],
        *,
        size: int,
        device: torch.device,
        mirror: Callable[[Tensor], Labels] | None = None,
    ) -> None:
        self._inputs = inputs
        self._labels = labels
        self._rows = torch.from_numpy(rows)
        self.size = size
        self._device = device
        self._mirror = mirror
        row_bytes = max(1, inputs.nbytes // max(1, len(inputs))) * (len(rows) if rows.ndim == 2 else 1)
        self._block = block_rows(row_bytes * size) * size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return (self.rows + self.size - 1) // self.size

    @property
    def rows(self) -> int:
        """Rows in a member's epoch."""
        return self._rows.shape[-1]

    def order(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A new random order of each member's rows."""
        orders = [torch.randperm(self.rows, generator=generator) for generator in generators]
        return orders[0] if self._rows.ndim == 1 else torch.stack(orders)

    def walk(self, order: Tensor, position: int) -> Iterator[Batch]:
        """The batches of an epoch in this order, from batch `position` on."""
        chosen, axis = self._rows.gather(-1, order), order.ndim - 1
        for start in range(position * self.size, self.rows, self._block):
            block = chosen[..., start : start + self._block]
            x = torch.from_numpy(self._inputs[block.numpy()]).to(self._device)
            labels = {name: values[block].to(self._device) for name, values in self._labels.items()}
            if self._mirror is not None:
                labels |= self._mirror(x)
            count = block.shape[-1]
            for at in range(0, count, self.size):
                size = min(self.size, count - at)
                own = {name: values.narrow(axis, at, size) for name, values in labels.items()}
                yield Batch(x.narrow(axis, at, size), own, block.narrow(axis, at, size))


def member_rows(material: Material, member: int, *, validation: bool = False) -> NDArray[np.int64]:
    """The rows that a member trains on: its own of the training rows, and in a second phase those of validation after them."""
    own = material.spec.ensemble.rows(member, material.parts.train, seed=material.spec.seed)
    return np.concatenate([own, material.parts.validation]) if validation else own


def steps_per_epoch(material: Material, *, validation: bool = False) -> int:
    """Batches in an epoch of a member's rows."""
    rows = material.spec.ensemble.count(len(material.parts.train)) + (len(material.parts.validation) if validation else 0)
    return -(-rows // batch_rows(material, validation=validation))


def batch_rows(material: Material, *, validation: bool = False) -> int:
    """The rows of a full batch: those of the spec, or all that a member has."""
    spec = material.spec
    rows = spec.ensemble.count(len(material.parts.train)) + (len(material.parts.validation) if validation else 0)
    return rows if spec.batch_size == "full" else min(int(spec.batch_size or 64), rows)
