"""What all attacks share: the predictor as they see it, the box in which inputs stay, and the fields that say how far they go.

An attack sees rows `x` and `loss_of`, never a model. Projection and clipping happen outside the differentiated graph: a
clamp inside it kills the gradient of saturated entries.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from service.tricks.choices import refuse
from service.tricks.criteria import CriterionName
from service.tricks.draws import OfRows
from service.tricks.norms import NORMS, Norm, NormName, rows
from service.values import ITEMS, Seed, Value

Bound = Annotated[float, Field(ge=-1e30, le=1e30)]
Epsilon = Annotated[float, Field(ge=0, le=1e30, examples=[1.0])]
LEAST_LIKELY = "least_likely"


class Look(NamedTuple):
    """What one pass says of rows [N, ...]: the loss [N], which are broken [N], and of which only `broken` can tell [N]."""

    loss: Tensor
    broken: Tensor
    doubtful: Tensor


class LossOf(Protocol):
    """The deployed predictor as an attack sees it, for fixed rows with fixed labels."""

    def __call__(self, x: Tensor) -> Tensor:
        """The loss [N] to raise, differentiable in x [N, ...]."""
        ...

    def looked(self, x: Tensor) -> Look:
        """The loss, and what the same pass says of who is broken."""
        ...

    def scores(self, x: Tensor) -> Tensor:
        """Scores of the classes [N, C] up to a shift, differentiable in x; raises TypeError for a number."""
        ...

    @property
    def right(self) -> Tensor:
        """The index of the class that is right for each row [N]."""
        ...

    def broken(self, x: Tensor) -> Tensor:
        """Rows [N] on which the predictor no longer answers as it should."""
        ...

    def only(self, chosen: Tensor) -> "LossOf":
        """The same for some of the rows, by their indices."""
        ...

    def under(self, criterion: CriterionName) -> "LossOf":
        """The same with another criterion; a number's loss is its squared error under all of them."""
        ...

    def towards(self, classes: Tensor) -> "LossOf":
        """The loss that leads each row to a class [N], while any but the right one breaks it; raises TypeError for a number."""
        ...


@dataclass(frozen=True)
class Box:
    """Where inputs may lie, and which entries may move: low, high and movable broadcast against rows."""

    low: Tensor | None = None
    high: Tensor | None = None
    movable: Tensor | None = None
    blank: Tensor | None = None
    """A row of which everything is missing."""
    fields: Tensor | None = None
    """The number of the field that each entry belongs to; a missing field takes all its entries along."""
    unit: Tensor | None = None
    """What one unit of epsilon is in the inputs' own, broadcast against rows; None: 1."""

    def measured(self, delta: Tensor, norm: Norm) -> Tensor:
        """The length [N] of a perturbation in the unit of epsilon."""
        return norm.length(delta if self.unit is None else delta / self.unit)

    def free(self, delta: Tensor) -> Tensor:
        """Only what may move: before a direction or a length is taken, lest entries that stay use up the budget."""
        return delta if self.movable is None else delta * self.movable

    def opening(self, x: Tensor, slope: Tensor, norm: Norm) -> Tensor:
        """The slope along what may move; for a sparse norm without entries that lie at the bound it points to."""
        slope = self.free(slope)
        if not norm.sparse or self.low is None or self.high is None:
            return slope
        return slope.masked_fill(((slope > 0) & (x >= self.high)) | ((slope < 0) & (x <= self.low)), 0.0)

    def room(self, x: Tensor, slope: Tensor) -> Tensor:
        """How far each entry may go along its slope's sign, at most 1e30."""
        far = torch.full_like(x, 1e30)
        if self.low is not None and self.high is not None:
            far = torch.where(slope > 0, self.high - x, x - self.low).clamp(min=0)
        return self.free(far)

    def apply(self, x: Tensor, delta: Tensor) -> Tensor:
        """x + delta inside the bounds; a row that lay outside before may stay where it was, but goes no further."""
        return self.inside(x, x + self.free(delta))

    def inside(self, x: Tensor, moved: Tensor) -> Tensor:
        """Rows that x became, inside the bounds."""
        if self.low is not None and self.high is not None:
            moved = torch.minimum(torch.maximum(moved, torch.minimum(self.low, x)), torch.maximum(self.high, x))
        return moved


class Attacked(NamedTuple):
    """Perturbed rows [N, ...], and what some attacks know besides."""

    inputs: Tensor
    zero_gradients: Tensor | None = None
    """Whether the gradient vanished at the start, [N]; None: no gradient was used."""
    distances: Tensor | None = None
    """The length of the shortest perturbation that was found, [N]; infinite where none was."""
    rungs: Tensor | None = None
    """The number of the ladder's rung that broke each row, [N]; -1 where none did."""


@dataclass
class Worst:
    """Of each row [N, ...] the worst point so far: the first that broke it, else the one with the largest loss [N]."""

    inputs: Tensor
    values: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Worst":
        """The rows themselves, which any other point is worse than."""
        return cls(x.clone(), torch.full_like(x.flatten(1)[:, 0], -torch.inf))

    def note(self, places: Tensor, moved: Tensor, values: Tensor, broken: Tensor) -> None:
        """Points of some rows, by their indices, with their loss and whether they are broken."""
        worse = broken | (values >= self.values[places])
        # As a rule all are: every step is to raise the loss.
        if not bool(worse.all()):
            places, moved, values = places[worse], moved[worse], values[worse]
        self.inputs[places], self.values[places] = moved, values.to(self.values.dtype)


class Source(Value):
    """Whose gradient is followed."""

    members: Annotated[int, Field(ge=0)] | Literal["best", "all"]
    """"best", "all" or an index."""


def _bounds(value: Any) -> Any:
    if isinstance(value, str) and value != "data":
        raise refuse("unknown-choice", 'bounds are "data", [low, high], {field: [low, high]} or null')
    pairs = list(value.items()) if isinstance(value, dict) else [(None, value)]
    for name, pair in pairs:
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(v, int | float) for v in pair) and pair[0] > pair[1]:
            raise refuse("value-out-of-range", "low must not exceed high", **({} if name is None else {"pointer": f"/{name}"}))
    return value


Pair = Annotated[tuple[Bound, Bound], ITEMS]
Bounds = Annotated[Literal["data"] | Pair | dict[str, Pair] | None, BeforeValidator(_bounds)]
Label = str | bool | Annotated[int, Field(ge=-(2**63), le=2**63)] | Annotated[float, Field(ge=-1e30, le=1e30)]


class Disturbance(Value, ABC):
    """What attacks within a ball and corruption share."""

    type: str
    """The kind."""
    seed: Seed = 0
    """Of what is drawn for each row."""

    @abstractmethod
    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """Rows changed within the box; what is drawn for a row follows from the seed and its number, by default its place."""

    @property
    def passes(self) -> int:
        """Forward passes per row, a backward pass counting as two."""
        return 1

    @property
    def classes_only(self) -> bool:
        """Whether it needs a boundary between classes."""
        return False

    @abstractmethod
    def sized(self, size: float) -> Self:
        """The same with that epsilon or severity."""

    @abstractmethod
    def sizes(self, epsilons: Sequence[float]) -> Sequence[float]:
        """The sizes at which a robustness job of these epsilons makes it."""

    def resolved(self) -> Self:
        """The same with what it takes by default written out."""
        return self

    def draws(self, x: Tensor, numbers: Tensor | None) -> OfRows:
        """A stream for each row [N, ...], by its number [N]; None: by its place."""
        return OfRows.numbered(self.seed, torch.arange(len(x), device=x.device) if numbers is None else numbers.to(x.device))


class Perturbation(Disturbance):
    """What attacks within a ball have."""

    norm: NormName = "linf"
    """In which a perturbation is measured."""
    epsilon: Epsilon
    """The largest perturbation, in the inputs' own unit."""
    bounds: Bounds = "data"
    """Where inputs may lie: within the training rows ("data"), [low, high], {field: [low, high]} (others: "data"), or anywhere (null)."""
    target: Label | None = None
    """The class to reach, by its label or "least_likely"; null: any other."""
    source: Source | None = None
    """Whose gradient is followed; null: that of the predictor asked."""
    immutable: Annotated[tuple[str, ...], ITEMS] = ()
    """Fields of a table that must not change."""
    unit: Literal["raw", "std"] = "raw"
    """Of epsilon: the inputs' own, or standard deviations of the training rows (of each column, of a whole array)."""

    def sized(self, size: float) -> Self:
        return self.model_copy(update={"epsilon": size})

    def sizes(self, epsilons: Sequence[float]) -> Sequence[float]:
        """The job's epsilons."""
        return epsilons

    def perturb(self, x: Tensor, delta: Tensor, box: Box) -> Attacked:
        """x moved by delta, in the box."""
        return Attacked(box.apply(x, delta))

    def stretched(self, delta: Tensor) -> Tensor:
        """Directions at length epsilon; none stays none."""
        length = self.ball.length(delta)
        return delta * rows(self.epsilon / torch.where(length > 0, length, torch.ones_like(length)), delta)

    @property
    def ball(self) -> Norm:
        """The norm as a noun."""
        return NORMS[self.norm]


def gradient(x: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of each row's loss, zero where x has no part in it; the network's own gradients stay untouched."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        return _slope(loss_of(leaf), leaf)


def _slope(loss: Tensor, leaf: Tensor) -> Tensor:
    total = loss.sum() if loss.ndim else loss
    (slope,) = torch.autograd.grad(total, leaf, allow_unused=True) if loss.requires_grad else (None,)
    return torch.zeros_like(leaf) if slope is None else slope.contiguous()


def slope_of(x: Tensor, loss_of: LossOf) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N], its gradient [N, ...] (zeros where x has no part in it), and the rows that are broken [N]."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        look = loss_of.looked(leaf)
        slope = _slope(look.loss, leaf)
    return look.loss.detach(), slope, _settled(x, look, loss_of)


@torch.no_grad()
def value_of(x: Tensor, loss_of: LossOf) -> tuple[Tensor, Tensor]:
    """Loss [N], and the rows that are broken [N]."""
    look = loss_of.looked(x)
    return look.loss, _settled(x, look, loss_of)


def _settled(x: Tensor, look: Look, loss_of: LossOf) -> Tensor:
    """Rows [N] that are broken, the doubtful ones asked about once more."""
    places = look.doubtful.nonzero().squeeze(1)
    if len(places) in (0, len(x)):
        return loss_of.broken(x) if len(places) else look.broken
    broken = look.broken.clone()
    broken[places] = loss_of.only(places).broken(x[places])
    return broken


def vanished(slope: Tensor) -> Tensor:
    """Rows [N] whose gradient is exactly zero."""
    return ~slope.flatten(1).any(1)
