"""What all targets share: how a head's labels are read, scored and turned into answers in the user's units."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from service.data import fields
from service.data.columns import Columns
from service.data.fields import Description
from service.errors import Conflict, Flaw
from service.onnx.graph import Graph
from service.tricks.choices import Only, refuse
from service.tricks.normalization import Normalize
from service.values import Value


def _weight(value: Any) -> Any:
    if value == "learned" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6):
        return value
    raise refuse("value-out-of-range", 'a weight is "learned" or a number above 0 and at most 1e6')


TargetName = Annotated[str, Field(min_length=1, max_length=1000, examples=["label"])]
TargetWeight = Annotated[Annotated[float, Field(gt=0, le=1e6)] | Literal["learned"], BeforeValidator(_weight)]


class Distribution(NamedTuple):
    """What a head says of a row in the user's units: logits [.., C], or mean [.., D], perhaps variance [.., D] or quantiles [.., D, Q]."""

    logits: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    quantiles: Tensor | None = None


class Nodes(NamedTuple):
    """A `Distribution` in an ONNX graph: the names of its parts."""

    logits: str | None = None
    mean: str | None = None
    variance: str | None = None
    quantiles: str | None = None


class Given(NamedTuple):
    """What labels are made from: the stored dataset, its training rows, all rows as a network gets them, and how those are normalized."""

    columns: Columns
    train: NDArray[np.int64]
    inputs: NDArray[Any]
    preprocess: Normalize
    standardize: bool


class Labelled(NamedTuple):
    """A target's labels of all rows, how many classes or numbers it has, and what its numbers were shifted and divided by [D]."""

    labels: Tensor
    width: int
    mean: Tensor
    std: Tensor
    originals: NDArray[np.float64] | None = None
    """Numbers in their own unit [N, D]."""
    classes: tuple[str, ...] | None = None


class Head(Value):
    """What all targets share; a field of another task keeps its default."""

    says: ClassVar[Literal["classes", "numbers"]]
    """What its answers are: probabilities of classes, or numbers."""
    shown: ClassVar[tuple[str, ...]]
    """The metrics that tables of a report have, the most important first."""
    from_inputs: ClassVar[bool] = False
    """Whether its labels are the inputs themselves, of which no copy is stored: `labelled` has none of them."""
    stratifies: ClassVar[bool] = False
    """Whether a split can hold its labels' shares."""
    calibrates: ClassVar[bool] = False
    """Whether confidence can be compared with what happened."""
    halves: ClassVar[bool] = False
    """Whether a learned weight is 1 / (2 s^2), as of a Gaussian, and not 1 / s^2 (Kendall et al. 2018)."""

    name: TargetName
    """The field that holds the labels."""
    weight: TargetWeight = 1.0
    """This target's share in the objective; "learned": by its own noise."""
    output: Annotated[Any, Only("identity")] = "identity"
    """The head's output function."""
    class_weights: Annotated[Any, Only(None)] = None
    """Weights of the classes."""
    label_smoothing: Annotated[float, Only(0.0)] = 0.0
    """Share of a label that is spread over all classes."""
    noise_std: Annotated[Any, Only(None)] = None
    """Observation noise in the target's unit."""
    decision: Annotated[Any, Only("argmax")] = "argmax"
    """How probabilities become a class: the most probable one."""
    gamma: Annotated[Any, Only(None)] = None
    """Of the focal loss."""
    delta: Annotated[Any, Only(None)] = None
    """Of the Huber loss."""
    quantiles: Annotated[Any, Only(None)] = None
    """Of the quantile loss."""

    # --- what it is made of -----------------------------------------------------------------------------------------

    def width(self, columns: Columns, shape: tuple[int, ...]) -> int:
        """Its classes or numbers in a stored dataset whose encoded rows have this shape."""
        raise NotImplementedError

    def outputs(self, width: int) -> int:
        """Raw outputs of the head for that many classes or numbers."""
        return width

    def misfits(self, description: Description, parts: Mapping[str, int]) -> Iterator[Flaw]:
        """What keeps it from being learnt from a dataset with so many rows in each part; pointers are within the target."""
        yield from ()

    def unfit(self, columns: Columns, width: int) -> Iterator[Flaw]:
        """What keeps it from having that many classes or numbers, looking at the rows; pointers are within the target."""
        yield from ()

    def read_labels(self, columns: Columns) -> Tensor:
        """The labels of all rows as they are stored: class indices [N], -1 missing, or numbers or shares [N, ..], NaN missing."""
        raise NotImplementedError

    def labelled(self, given: Given) -> Labelled:
        """Its labels, encoded."""
        raise NotImplementedError

    def doubtful(self, field: fields.Field, metric: str | None) -> bool:
        """Whether labels have to be looked at to say whether rows of this field have any, and whether a metric of it is defined."""
        return field.missing > 0

    def undefined(self, labels: Tensor, metric: str) -> str | None:
        """Why a metric is not defined on rows with these labels; None: it is."""
        return f"none of them has a label of {self.name!r}" if bool(self.missing(labels).all()) else None

    def fitted(self, labels: Tensor, classes: tuple[str, ...] | None) -> Self:
        """The same with what its loss takes from the labels of the training rows."""
        return self

    # --- its loss ---------------------------------------------------------------------------------------------------

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Loss per row [.., N] of raw outputs [.., N, outputs] and labels without missing ones, in normalized units."""
        raise NotImplementedError

    def shares(self, labels: Tensor) -> Tensor | None:
        """What each row counts in the mean of `losses` [.., N]; None: all alike."""
        return None

    def loss_of(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses` over rows that all have a label."""
        shares = self.shares(labels)
        losses = self.losses(raw, labels)
        return losses.mean(-1) if shares is None else losses.sum(-1) / positive(shares.sum(-1))

    def missing(self, labels: Tensor) -> Tensor:
        """Rows without a label, as booleans [.., N]."""
        raise NotImplementedError

    @property
    def plain(self) -> bool:
        """Whether the loss of classes is the negative log likelihood of the labels and nothing else."""
        return True

    # --- its answers ------------------------------------------------------------------------------------------------

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The raw outputs in the target's own unit, mean and std being those of its training rows."""
        raise NotImplementedError

    def exported(self, graph: Graph, raw: str, mean: Tensor, std: Tensor) -> Nodes:
        """The ONNX operators of `read`."""
        raise Conflict("not-exportable", f"This release does not write the task {type(self).__name__.lower()} as ONNX.")

    def said_losses(self, said: Distribution, truth: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Of numbers: the loss of an answer in the target's unit on the rows that have a label, in normalized units."""
        raise NotImplementedError

    def scores(self, raw: Tensor, labels: Tensor, std: Tensor) -> dict[str, Tensor]:
        """What the quick metrics are sums of, per row [N]; `loss` is one; errors are in the target's own unit."""
        raise NotImplementedError

    @property
    def scored(self) -> tuple[str, ...]:
        """The names of `scores`."""
        raise NotImplementedError

    def means(self, sums: Mapping[str, float], rows: float) -> dict[str, float]:
        """The quick metrics by name, of sums of `scores` over so many rows; NaN without any."""
        raise NotImplementedError

    @property
    def quick(self) -> tuple[str, ...]:
        """The names of the quick metrics, which every epoch takes; others take a look at all rows at once."""
        raise NotImplementedError

    @property
    def monitors(self) -> tuple[str, ...]:
        """All metrics that early stopping can watch."""
        return self.quick

    def truth(self, labels: Tensor, width: int) -> Tensor:
        """Of classes: the labels as probabilities [N, C]."""
        raise NotImplementedError

    def right(self, labels: Tensor) -> Tensor:
        """Of classes: the index of the one that counts as right [N], -1 where missing."""
        raise NotImplementedError

    @property
    def standardized(self) -> bool:
        """Whether its numbers are brought to mean 0 and standard deviation 1 in training."""
        return False


def absent(name: str, description: Description) -> Iterator[Flaw]:
    """The flaw of a target that is no field of the dataset."""
    known = {field.name: field for field in description.fields}
    if name not in known or known[name].kind == "ignore" or (description.format == "npz" and name == "x"):
        yield Flaw("/name", "inconsistent-spec", f"the dataset has no target {name!r}; it has {', '.join(known)}")


def arrays(field: fields.Field) -> bool:
    """Whether a field holds an image or array per row."""
    return field.kind in ("image", "tensor")


def agrees(prediction: Tensor, labels: Tensor) -> Tensor:
    """Whether classes [N] are the labels [N], or such that none is more probable under labels [N, C]: equal ones are all right."""
    if not labels.is_floating_point():
        return prediction == labels
    return labels.gather(-1, prediction.unsqueeze(-1)).squeeze(-1) >= labels.amax(-1)


def plain_scale(width: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is not standardized."""
    return torch.zeros(width), torch.ones(width)


def mean_loss(target: Head, raw: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean loss over the rows whose label is known, [] or each member's, weighted [.., N]; 0 without gradient where none counts.

    Missing labels are replaced before the loss sees them: NaN times 0 is NaN.
    """
    missing = target.missing(labels)
    filled = torch.where(missing.view(*missing.shape, *[1] * (labels.ndim - missing.ndim)), torch.zeros_like(labels), labels)
    losses, shares = target.losses(raw, filled), target.shares(filled)
    counted = (~missing).to(losses.dtype) if shares is None else shares.masked_fill(missing, 0.0)
    losses = losses.masked_fill(missing, 0.0)
    if weights is not None:
        losses, counted = losses * weights, counted * weights
    return losses.sum(-1) / positive(counted.sum(-1))


def positive(total: Tensor) -> Tensor:
    """A sum to divide by; 1 where nothing counts, so that 0 stays 0."""
    return torch.where(total > 0, total, torch.ones_like(total))
