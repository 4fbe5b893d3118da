"""A distribution over classes as a target: cross-entropy with rows of probabilities, as of a search or of several judges."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from service.data.columns import Columns
from service.data.fields import Description
from service.data.labels import MOST_CLASSES, numbers_of
from service.errors import Flaw
from service.onnx.graph import Graph
from service.tricks.targets import Distribution, Given, Head, Labelled, Nodes, absent, agrees, plain_scale

SLACK = 1e-4
"""By how much the sum of a row of probabilities may miss 1."""


class SoftLabels(Head):
    """Probabilities of C classes, the columns of an array; labels float32 [.., N, C] that sum to 1, NaN where missing."""

    says: ClassVar[Literal["classes", "numbers"]] = "classes"
    shown: ClassVar[tuple[str, ...]] = ("kl", "accuracy", "nll", "brier")

    task: Literal["distribution"] = "distribution"
    """A row of probabilities."""
    loss: Literal["cross_entropy"] = "cross_entropy"
    """Soft cross-entropy, -sum_c t_c log p_c: smallest at p = t, where it is the entropy of t."""

    def width(self, columns: Columns, shape: tuple[int, ...]) -> int:
        return max(1, *columns.description.field(self.name).shape)

    def misfits(self, description: Description, parts: Mapping[str, int]) -> Iterator[Flaw]:
        yield from absent(self.name, description)
        field = next((field for field in description.fields if field.name == self.name), None)
        if field is None:
            return
        if len(field.shape) != 1 or field.shape[0] < 2:
            yield Flaw("/task", "inconsistent-spec", f"{self.name!r} is no array of two or more probabilities a row")
        elif field.min is not None and field.max is not None and (field.min < 0 or field.max > 1):
            yield Flaw("/task", "inconsistent-spec", f"{self.name!r} runs from {field.min:g} to {field.max:g}; probabilities from 0 to 1")

    def unfit(self, columns: Columns, width: int) -> Iterator[Flaw]:
        if width > MOST_CLASSES:
            yield Flaw("/task", "inconsistent-spec", f"{self.name!r} has {width} classes; there are at most {MOST_CLASSES}")
        sums = columns.read(self.name).sum(axis=1, dtype=np.float64)
        wrong = np.flatnonzero(np.abs(sums - 1) > SLACK)
        if len(wrong):
            yield Flaw("/task", "invalid-data", f"row {wrong[0]} of {self.name!r} sums to {sums[wrong[0]]:g}, and probabilities to 1")

    def read_labels(self, columns: Columns) -> Tensor:
        return torch.from_numpy(numbers_of(columns, columns.description.field(self.name)).astype(np.float32))

    def labelled(self, given: Given) -> Labelled:
        labels = self.read_labels(given.columns)
        names = tuple(str(column) for column in range(labels.shape[1]))
        return Labelled(labels, labels.shape[1], *plain_scale(), classes=names)

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats per row [.., N]; raw and labels [.., N, C]."""
        return -(labels.to(raw.dtype) * raw.log_softmax(-1)).sum(-1)

    def missing(self, labels: Tensor) -> Tensor:
        """Rows without a label, as booleans [.., N]: a row counts where all its probabilities are there."""
        return labels.isnan().any(-1)

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The raw outputs as a distribution."""
        return Distribution(logits=raw)

    def exported(self, graph: Graph, raw: str, mean: Tensor, std: Tensor) -> Nodes:
        return Nodes(logits=raw)

    def scores(self, raw: Tensor, labels: Tensor, std: Tensor) -> dict[str, Tensor]:
        hits = agrees(raw.argmax(-1), labels).float()
        brier = (raw.softmax(-1) - labels).square().sum(-1)
        return {"loss": self.losses(raw, labels), "hits": hits, "brier": brier, "entropy": -torch.xlogy(labels, labels).sum(-1)}

    @property
    def scored(self) -> tuple[str, ...]:
        return ("loss", "hits", "brier", "entropy")

    def means(self, sums: Mapping[str, float], rows: float) -> dict[str, float]:
        loss, accuracy = sums["loss"] / rows, sums["hits"] / rows
        found = {"loss": loss, "nll": loss, "kl": loss - sums["entropy"] / rows, "accuracy": accuracy, "error": 1 - accuracy}
        return {**found, "brier": sums["brier"] / rows}

    @property
    def quick(self) -> tuple[str, ...]:
        return ("loss", "nll", "kl", "accuracy", "error", "brier")

    def truth(self, labels: Tensor, width: int) -> Tensor:
        return labels.double()

    def right(self, labels: Tensor) -> Tensor:
        """The most probable class; -1 where missing."""
        return torch.where(self.missing(labels), -1, labels.nan_to_num().argmax(-1))
