"""Classes as targets: cross-entropy, plain or weighted, smoothed, focal; labels may be shares of classes."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from service.data import fields
from service.data.columns import Columns
from service.data.fields import Description
from service.data.labels import MOST_CLASSES, classes_of, labels_of
from service.errors import Flaw
from service.flaws import pointer
from service.onnx.graph import Graph
from service.tricks.choices import refuse
from service.tricks.decisions import Decision, decision_flaws
from service.tricks.targets import Distribution, Given, Head, Labelled, Nodes, absent, arrays, plain_scale

ClassWeight = Annotated[float, Field(ge=0, le=1e6)]
SURE = 1e-12
"""Least 1 - p that a power is taken of: below it a gradient would be 0 times infinity."""
LIGHT = 1e-30
"""Weights that are all below it are taken for 0: float32 has hardly anything smaller."""


def _class_weights(value: Any) -> Any:
    if value is None or value == "balanced":
        return value
    if not isinstance(value, dict):
        raise refuse("unknown-choice", 'class_weights are null, "balanced" or an object of numbers by class')
    for name, weight in value.items():
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight <= 1e6:
            raise refuse("value-out-of-range", f"the weight of class {name!r} is a number from 0 to 1e6", pointer=pointer(name))
    return {name: float(weight) for name, weight in value.items()}


class Classification(Head):
    """One of C classes; labels are indices, -1 where missing, or shares of the classes [.., N, C], NaN where missing."""

    says: ClassVar[Literal["classes", "numbers"]] = "classes"
    shown: ClassVar[tuple[str, ...]] = ("accuracy", "nll", "brier", "ece")
    stratifies: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True

    task: Literal["classification"] = "classification"
    """One of several classes."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """Cross-entropy, or cross-entropy times (1 - p)^gamma, which counts rows less that are easy (Lin et al. 2017)."""
    class_weights: Annotated[Literal["balanced"] | dict[str, ClassWeight] | None, BeforeValidator(_class_weights)] = None
    """Weights of the classes by name, those left out 1; "balanced": N / (C N_c) of the training rows."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label that is spread over all classes."""
    gamma: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of the focal loss, 2 unless given; null without it."""
    decision: Decision = "argmax"
    """How probabilities become a class: the most probable one, the second of two from a threshold on, or the least costly one."""

    @model_validator(mode="before")
    @classmethod
    def _gamma_of_focal(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.get("loss") == "focal":
            return {**value, "gamma": 2.0} if value.get("gamma") is None else value
        if value.get("gamma") is not None:
            raise refuse("inconsistent-spec", "gamma is that of the focal loss", pointer="/gamma")
        return value

    def width(self, columns: Columns, shape: tuple[int, ...]) -> int:
        return len(classes_of(columns, columns.description.field(self.name)))

    def misfits(self, description: Description, parts: Mapping[str, int]) -> Iterator[Flaw]:
        yield from absent(self.name, description)
        field = next((field for field in description.fields if field.name == self.name), None)
        if field is None:
            return
        if arrays(field):
            yield Flaw("/task", "inconsistent-spec", f"{self.name!r} holds arrays, which are no classes")
        elif (field.classes is not None and len(field.classes) < 2) or (
            field.classes is None and field.min is not None and field.min == field.max
        ):
            yield Flaw("/name", "invalid-data", f"{self.name!r} has fewer than two classes")
        if not parts["validation"] and getattr(self.decision, "threshold", None) == "validation":
            yield Flaw(
                "/decision/threshold", "inconsistent-spec", "a threshold is chosen on validation rows never trained on, and there are none"
            )

    def unfit(self, columns: Columns, width: int) -> Iterator[Flaw]:
        if width > MOST_CLASSES:
            message = f"{self.name!r} has {width} distinct values; a classification has at most {MOST_CLASSES} classes"
            yield Flaw("/task", "inconsistent-spec", message)
        yield from decision_flaws(self.decision, width)
        if not isinstance(self.class_weights, dict):
            return
        classes = classes_of(columns, columns.description.field(self.name))
        for name in self.class_weights:
            if name not in classes:
                where = "/class_weights" + pointer(name)
                yield Flaw(where, "inconsistent-spec", f"there is no class {name!r}; there are {', '.join(classes[:20])}")
        if all(self.class_weights.get(name, 1.0) < LIGHT for name in classes):
            yield Flaw("/class_weights", "inconsistent-spec", f"every class weighs 0, or less than {LIGHT:g}, so that no row counts")

    def read_labels(self, columns: Columns) -> Tensor:
        return torch.from_numpy(labels_of(columns, columns.description.field(self.name)))

    def labelled(self, given: Given) -> Labelled:
        names = classes_of(given.columns, given.columns.description.field(self.name))
        return Labelled(self.read_labels(given.columns), len(names), *plain_scale(), classes=names)

    def doubtful(self, field: fields.Field, metric: str | None) -> bool:
        light = isinstance(self.class_weights, dict) and min(self.class_weights.values(), default=1.0) < LIGHT
        return super().doubtful(field, metric) or metric == "auroc" or light

    def undefined(self, labels: Tensor, metric: str) -> str | None:
        why, known = super().undefined(labels, metric), labels[~self.missing(labels)]
        if why is None and metric == "auroc" and bool((known == known[0]).all()):
            return f"all that have a label of {self.name!r} are of one class"
        shares = self.shares(known)
        if why is None and metric == "loss" and shares is not None and not bool((shares >= LIGHT).any()):
            return f"the classes of all that have a label of {self.name!r} weigh 0"
        return why

    def fitted(self, labels: Tensor, classes: tuple[str, ...] | None) -> Self:
        """The same with a weight for every class, in the order of the classes; a class without training rows counts 1."""
        if self.class_weights is None or classes is None:
            return self
        given: Mapping[str, float] = self.class_weights if isinstance(self.class_weights, dict) else {}
        if self.class_weights == "balanced":
            known = labels[labels >= 0]
            counts = torch.bincount(known, minlength=len(classes)).tolist()
            given = {name: len(known) / (len(classes) * count) for name, count in zip(classes, counts, strict=True) if count}
        # Validated anew and not copied: a copy would keep what the cache below holds.
        weights = {name: float(given.get(name, 1.0)) for name in classes}
        return type(self).model_validate({**self.model_dump(), "class_weights": weights})

    @cached_property
    def _weights(self) -> Tensor | None:
        """The classes' weights [C], once they are fitted."""
        return torch.tensor(list(self.class_weights.values())) if isinstance(self.class_weights, dict) else None

    @property
    def plain(self) -> bool:
        return self.class_weights is None and self.label_smoothing == 0 and self.gamma is None

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Loss in nats per row [.., N]: -sum_c w_c t_c (1 - p_c)^gamma log p_c, t the smoothed labels; raw [.., N, C]."""
        soft = labels.is_floating_point()
        if self.plain and not soft:
            return F.cross_entropy(raw.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        logs = raw.log_softmax(-1)
        terms = logs if self.gamma is None else logs * self._focus(logs)
        if self._weights is not None:
            terms = terms * self._weights.to(raw)
        own = (labels.to(raw.dtype) * terms).sum(-1) if soft else terms.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        if not self.label_smoothing:
            return -own
        return -((1 - self.label_smoothing) * own + self.label_smoothing * terms.mean(-1))

    def _focus(self, logs: Tensor) -> Tensor:
        """(1 - p)^gamma, of each member by itself: what a power rounds to depends on the place in a tensor."""
        if logs.ndim > 2:
            return torch.stack([self._focus(own) for own in logs])
        return (-torch.expm1(logs)).clamp(min=SURE) ** (self.gamma or 0.0)

    def shares(self, labels: Tensor) -> Tensor | None:
        """The weight of each row's class [.., N]."""
        if self._weights is None:
            return None
        if labels.is_floating_point():
            return labels @ self._weights.to(labels)
        return self._weights.to(labels.device)[labels]

    def loss_of(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses` over the rows; in one kernel where there is one member."""
        if self.plain and labels.ndim == 1:
            return F.cross_entropy(raw, labels)
        return super().loss_of(raw, labels)

    def missing(self, labels: Tensor) -> Tensor:
        """Rows without a label, as booleans [.., N]."""
        return labels.isnan().any(-1) if labels.is_floating_point() else labels < 0

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The raw outputs as a distribution."""
        return Distribution(logits=raw)

    def exported(self, graph: Graph, raw: str, mean: Tensor, std: Tensor) -> Nodes:
        return Nodes(logits=raw)

    def scores(self, raw: Tensor, labels: Tensor, std: Tensor) -> dict[str, Tensor]:
        p = raw.softmax(-1)
        right = p.gather(1, labels.unsqueeze(1)).squeeze(1)
        # |p - onehot|^2 = |p|^2 - 2 p_y + 1.
        found = {"loss": self.losses(raw, labels), "hits": (raw.argmax(-1) == labels).float(), "brier": p.square().sum(-1) - 2 * right + 1}
        if self.plain:
            return found
        shares = self.shares(labels)
        found["shares"] = torch.ones_like(right) if shares is None else shares
        return found | {"nll": F.cross_entropy(raw, labels, reduction="none")}

    @property
    def scored(self) -> tuple[str, ...]:
        return ("loss", "hits", "brier") if self.plain else ("loss", "hits", "brier", "shares", "nll")

    def means(self, sums: Mapping[str, float], rows: float) -> dict[str, float]:
        accuracy = sums["hits"] / rows
        nll = sums.get("nll", sums["loss"]) / rows
        loss = sums["loss"] / (sums.get("shares", rows) or float("nan"))
        return {"loss": loss, "accuracy": accuracy, "error": 1 - accuracy, "nll": nll, "brier": sums["brier"] / rows}

    @property
    def quick(self) -> tuple[str, ...]:
        return ("loss", "error", "accuracy", "nll", "brier")

    @property
    def monitors(self) -> tuple[str, ...]:
        return (*self.quick, "balanced_accuracy", "f1_macro", "auroc", "ece")

    def truth(self, labels: Tensor, width: int) -> Tensor:
        """The labels as probabilities [N, C]; labels are there."""
        return F.one_hot(labels, width).double()

    def right(self, labels: Tensor) -> Tensor:
        return labels
