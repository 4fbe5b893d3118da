"""Attacks: perturbations within a ball that change a prediction, in the inputs' own units.

An attack sees rows `x` and `loss_of`, never a model. Projection and clipping happen outside the differentiated graph: a
clamp inside it kills the gradient of saturated entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor

from service.tricks.choices import Only, refuse
from service.tricks.norms import NORMS, Norm, NormName, rows
from service.values import ITEMS, Seed, Value

Bound = Annotated[float, Field(ge=-1e30, le=1e30)]
Epsilon = Annotated[float, Field(ge=0, le=1e30, examples=[1.0])]


class LossOf(Protocol):
    """The deployed predictor as an attack sees it, for fixed rows with fixed labels."""

    def __call__(self, x: Tensor) -> Tensor:
        """The loss [N] to raise, differentiable in x [N, ...]."""
        ...

    def broken(self, x: Tensor) -> Tensor:
        """Rows [N] on which the predictor no longer answers as it should."""
        ...

    def only(self, chosen: Tensor) -> "LossOf":
        """The same for some of the rows, by their indices."""
        ...


@dataclass(frozen=True)
class Box:
    """Where inputs may lie, and which entries may move: low, high and movable broadcast against rows."""

    low: Tensor | None = None
    high: Tensor | None = None
    movable: Tensor | None = None

    def free(self, delta: Tensor) -> Tensor:
        """Only what may move: before a direction or a length is taken, lest entries that stay use up the budget."""
        return delta if self.movable is None else delta * self.movable

    def apply(self, x: Tensor, delta: Tensor) -> Tensor:
        """x + delta inside the bounds; a row that lay outside before may stay where it was, but goes no further."""
        moved = x + self.free(delta)
        if self.low is not None and self.high is not None:
            moved = torch.minimum(torch.maximum(moved, torch.minimum(self.low, x)), torch.maximum(self.high, x))
        return moved


class Attacked(NamedTuple):
    """Perturbed rows [N, ...], and whether the gradient vanished at the start, [N] (None: no gradient was used)."""

    inputs: Tensor
    zero_gradients: Tensor | None = None


class _Attack(Value):
    """What all attacks share."""

    norm: NormName = "linf"
    """In which a perturbation is measured."""
    epsilon: Epsilon
    """The largest perturbation, in the inputs' own unit."""
    bounds: Literal["data"] | Annotated[tuple[Bound, Bound], ITEMS] | None = "data"
    """Where inputs may lie: within the training rows ("data"), within [low, high], or anywhere (null)."""
    target: Annotated[Any, Only(None)] = None
    """The class to reach; null: any other."""
    seed: Seed = 0
    """Of the random start or noise."""
    source: Annotated[Any, Only(None)] = None
    """Whose gradient is followed; null: that of the predictor asked."""
    immutable: Annotated[tuple[str, ...], ITEMS] = ()
    """Fields of a table that must not change."""
    unit: Literal["raw"] = "raw"
    """Of epsilon: the inputs' own."""

    @field_validator("bounds", mode="before")
    @classmethod
    def _low_below_high(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "data":
            raise refuse("unknown-choice", 'bounds are "data", [low, high] or null')
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value) and value[0] > value[1]:
            raise refuse("value-out-of-range", "low must not exceed high")
        return value

    @property
    def criterion(self) -> str:
        """The loss that it raises."""
        return "cross_entropy"

    @property
    def passes(self) -> int:
        """Forward passes per row, a backward pass counting as two."""
        return 1

    def perturb(self, x: Tensor, delta: Tensor, box: Box) -> Attacked:
        """x moved by delta, in the box."""
        return Attacked(box.apply(x, delta))

    def resolved(self) -> Self:
        """The attack with what it takes by default written out."""
        return self

    @property
    def ball(self) -> Norm:
        """The norm as a noun."""
        return NORMS[self.norm]

    def generator(self, x: Tensor) -> torch.Generator:
        """The attack's own stream."""
        return torch.Generator(x.device).manual_seed(self.seed)


class GaussianNoise(_Attack):
    """A control: linf: entries N(0, epsilon^2); l2: a random direction of length epsilon."""

    type: Literal["gaussian_noise"] = "gaussian_noise"
    """Gaussian noise."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """One draw per row."""
        noise = box.free(torch.randn(x.shape, generator=self.generator(x), device=x.device))
        scale = self.epsilon if self.norm == "linf" else rows(self.epsilon / self.ball.length(noise).clamp(min=1e-30), noise)
        return self.perturb(x, noise * scale, box)


class UniformNoise(_Attack):
    """A control: uniform in the ball."""

    type: Literal["uniform_noise"] = "uniform_noise"
    """Noise uniform in the ball."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """One draw per row."""
        return self.perturb(x, self.ball.sample(x, self.epsilon, self.generator(x), box.movable), box)


class RandomSign(_Attack):
    """The control of FGSM's own length: +-epsilon in every entry (l2: scaled to length epsilon)."""

    type: Literal["random_sign"] = "random_sign"
    """Every entry up or down by epsilon, at random."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """One draw per row."""
        signs = torch.randint(0, 2, x.shape, generator=self.generator(x), device=x.device).to(x.dtype) * 2 - 1
        return self.perturb(x, self.ball.project(box.free(signs) * self.epsilon, self.epsilon), box)


class FGSM(_Attack):
    """The fast gradient sign method, x + epsilon sign(grad), and its l2 twin (Goodfellow et al. 2015, section 4)."""

    type: Literal["fgsm"] = "fgsm"
    """One step along the sign of the gradient."""

    @property
    def passes(self) -> int:
        return 3

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """One step of full length."""
        slope = box.free(gradient(x, loss_of))
        moved = self.perturb(x, self.epsilon * self.ball.direction(slope), box)
        return Attacked(moved.inputs, vanished(slope))


class PGD(_Attack):
    """Projected gradient descent from random starts, the worst of all iterates (Madry et al. 2018).

    A row counts as robust only if the clean point and every iterate of every restart keep its label; broken rows are
    left alone at once.
    """

    type: Literal["pgd"] = "pgd"
    """Many projected steps along the gradient."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Steps of each restart."""
    step_size: Annotated[float, Field(gt=0, le=1e30)] | None = None
    """Length of a step; null: 2.5 epsilon / steps."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    """Starts; the worst counts."""
    random_start: bool = True
    """Whether to start at random inside the ball."""
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    """What is raised: cross-entropy or the margin between the best wrong class and the right one."""

    @property
    def criterion(self) -> str:
        return self.loss

    @property
    def length(self) -> float:
        """Of a step: 2.5 epsilon / steps unless it is given (Madry et al. 2018)."""
        return self.step_size if self.step_size is not None else 2.5 * self.epsilon / self.steps

    def resolved(self) -> Self:
        return self.model_copy(update={"step_size": self.length})

    @property
    def passes(self) -> int:
        return self.restarts * (4 * self.steps + 1)

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
        """The first iterate that breaks a row, else the last of the last restart."""
        generator = self.generator(x)
        result = x.clone()
        flat = vanished(box.free(gradient(x, loss_of)))
        alive = (~loss_of.broken(x)).nonzero().squeeze(1)
        for _ in range(self.restarts):
            start = self.ball.sample(x, self.epsilon, generator, box.movable) if self.random_start else torch.zeros_like(x)
            alive = self._descend(x, result, start, alive, loss_of, box)
            if not len(alive):
                break
        return Attacked(result, flat)

    def _descend(self, x: Tensor, result: Tensor, start: Tensor, alive: Tensor, loss_of: LossOf, box: Box) -> Tensor:
        """One restart over the rows still alive; writes into `result` and returns the survivors."""
        size = self.length
        origin, loss = x[alive], loss_of.only(alive)
        moved = box.apply(origin, start[alive])
        for step in range(self.steps + 1):
            standing = (~loss.broken(moved)).nonzero().squeeze(1)
            result[alive] = moved
            if len(standing) < len(alive):
                alive, origin, moved, loss = alive[standing], origin[standing], moved[standing], loss.only(standing)
            if step == self.steps or not len(alive):
                break
            ascent = moved - origin + size * self.ball.direction(box.free(gradient(moved, loss)))
            moved = box.apply(origin, self.ball.project(ascent, self.epsilon))
        return alive


def gradient(x: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of each row's loss; the network's own gradients stay untouched."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss_of(leaf).sum(), leaf)
    return slope


def vanished(slope: Tensor) -> Tensor:
    """Rows [N] whose gradient is exactly zero."""
    return (slope == 0).flatten(1).all(1)


Attack = Annotated[GaussianNoise | UniformNoise | RandomSign | FGSM | PGD, Field(discriminator="type")]
