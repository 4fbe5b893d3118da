"""Batches: one random order an epoch, gathered block by block, handed out as views."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.blocks import block_rows

Labels = dict[str, Tensor]


class Batches:
    """The batches of one member's rows; a last short batch is kept."""

    def __init__(self, inputs: NDArray[Any], labels: Labels, rows: NDArray[np.int64], *, size: int, device: torch.device) -> None:
        self._inputs = inputs
        self._labels = labels
        self._rows = torch.from_numpy(rows)
        self.size = size
        self._device = device
        row_bytes = max(1, inputs.nbytes // max(1, len(inputs)))
        self._block = block_rows(row_bytes * size) * size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return (len(self._rows) + self.size - 1) // self.size

    @property
    def rows(self) -> int:
        """Rows in an epoch."""
        return len(self._rows)

    def order(self, generator: torch.Generator) -> Tensor:
        """A new random order of the rows."""
        return torch.randperm(len(self._rows), generator=generator)

    def walk(self, order: Tensor, position: int) -> Iterator[tuple[Tensor, Labels]]:
        """The batches of an epoch in this order, from batch `position` on."""
        chosen = self._rows[order]
        for start in range(position * self.size, len(chosen), self._block):
            block = chosen[start : start + self._block]
            x = torch.from_numpy(self._inputs[block.numpy()]).to(self._device)
            labels = {name: values[block].to(self._device) for name, values in self._labels.items()}
            for at in range(0, len(block), self.size):
                yield x[at : at + self.size], {name: values[at : at + self.size] for name, values in labels.items()}
