"""A list of transforms applied to batches: what a row becomes in an epoch follows from the member's seed, the epoch and its number."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.tricks.augmentation import Augmentation
from service.tricks.streams import Draws, row_keys

Labels = dict[str, Tensor]


class Augmented:
    """Batches as training sees them, of members with these seeds; `classes` are counted by target, `plain` columns are 0 or 1."""

    def __init__(self, transforms: Sequence[Augmentation], seeds: Sequence[int], *, classes: Mapping[str, int], plain: int = 0) -> None:
        self._transforms = transforms
        self._seeds = seeds
        self._classes = classes
        self._plain = plain

    def __call__(self, x: Tensor, labels: Labels, rows: Tensor, *, epoch: int) -> tuple[Tensor, Labels]:
        """Changed copies of rows x [B, ...], of a stack [K, B, ...], in an epoch counted from 0, and their labels.

        Classes that were mixed are float rows [.., C], NaN where one of two labels was missing.
        """
        numbers, leading = rows.reshape(len(self._seeds), -1).numpy(), x.shape[: rows.ndim]
        x = x.to(torch.float32).flatten(0, rows.ndim - 1)
        labels = {name: values.flatten(0, rows.ndim - 1) for name, values in labels.items()}
        for place, transform in enumerate(self._transforms):
            draws = Draws(row_keys(self._seeds, numbers, epoch=epoch, place=place))
            blend = transform.blend(x.shape[1:], draws)
            if blend is None:
                x = self._changed(transform, x, draws)
            else:
                there = blend.to(x.device)
                x, labels = there.inputs(x), {name: there.labels(self._soft(name, values)) for name, values in labels.items()}
        return x.unflatten(0, leading), {name: values.unflatten(0, leading) for name, values in labels.items()}

    def _changed(self, transform: Augmentation, x: Tensor, draws: Draws) -> Tensor:
        if not (transform.numbers_only and self._plain):
            return transform(x, draws)
        numeric = x.shape[-1] - self._plain
        return torch.cat([transform(x[:, :numeric], draws), x[:, numeric:]], dim=1)

    def _soft(self, name: str, labels: Tensor) -> Tensor:
        """Labels that can be mixed: classes as one-hot rows, -1 as NaN."""
        if labels.is_floating_point():
            return labels
        rows = F.one_hot(labels.clamp(min=0), self._classes[name]).to(torch.float32)
        return rows.masked_fill_((labels < 0).unsqueeze(-1), np.nan)
