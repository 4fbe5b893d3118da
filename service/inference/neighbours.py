"""How far a row is from the nearest training row of another class: beyond that distance a perturbation may well change the truth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.inference.boxes import placed
from service.inference.model import Model
from service.tricks.attacks import Perturbation

MOST_ROWS = 5000
"""Training rows that are looked at: the first of them."""
CHUNK_ENTRIES = 20_000_000


@dataclass(frozen=True)
class Neighbours:
    """Training rows [T, ...] with their labels [T]."""

    x: Tensor
    labels: Tensor

    def nearest_other(self, moved: Tensor, labels: Tensor, attack: Perturbation, model: Model) -> list[float | None]:
        """Of each row [N, ...] the distance to the nearest training row of another class, in the attack's norm and unit; None: no such."""
        box, found = placed(attack, model), []
        for row, label in zip(moved, labels, strict=True):
            others = self.x[self.labels != label]
            per = max(1, CHUNK_ENTRIES // max(1, row.numel()))
            parts = [box.measured(part - row, attack.ball).min() for part in others.split(per)] if len(others) else []
            found.append(float(torch.stack(parts).min()) if parts else None)
        return found
