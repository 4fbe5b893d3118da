"""What every regularizer says of itself: which layers it acts on, and what it does at which moment of a step."""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field
from torch import Tensor

from service.tricks.choices import matching
from service.tricks.proximal import Metric
from service.values import ITEMS, Value

Alpha = Annotated[float, Field(ge=0, le=1e6, examples=[1e-4])]
Tensors = Sequence[Tensor]


class Penalty(Value):
    """What all share: whether biases and gains are meant too, and the moments of a step at which it may act."""

    parameters: Literal["weights", "all"] = "weights"
    """Weights alone, or all parameters, biases and gains among them."""

    proximal: ClassVar[bool] = False
    """Whether `shrink` needs the metric of the optimizer's step; such a penalty takes weights of any shape."""
    projects: ClassVar[bool] = False
    """Whether it is a constraint, applied after all shrinking."""
    spares_heads: ClassVar[bool] = False
    """Whether its default layers leave the heads out."""

    @property
    def steers(self) -> bool:
        """Whether it acts through the gradient, and not on the weights themselves."""
        return False

    @property
    def sparsifies(self) -> bool:
        """Whether it makes weights exactly 0."""
        return False

    @property
    def gated(self) -> bool:
        """Whether the inputs of its layers get gates, which are what it acts on."""
        return False

    def named(self) -> Iterator[tuple[str, str]]:
        """What it says of layers: pointers below it, and the name or shell pattern there."""
        raise NotImplementedError

    def over(self, names: Sequence[str]) -> list[str]:
        """The layers of a network that it acts on, in the network's order."""
        raise NotImplementedError

    def filled(self, names: Sequence[str]) -> Self:
        """The same with its default layers put in."""
        return self

    def by_member(self, weights: Tensor) -> list[Tensor]:
        """A stack's weights [K, ...] as `shrink` takes them."""
        return [weights]

    def value(self, weights: Tensors) -> Tensor:
        """The penalty's part of the objective."""
        raise TypeError(f"{type(self).__name__} has no value")

    def add_gradient(self, weights: Tensors) -> None:
        """Add the penalty's gradient to `.grad`, before clipping and the optimizer's step."""

    def shrink(self, weights: Tensors, *, learning_rate: float, metric: Metric | None = None) -> None:
        """Shrink or project the weights in place, after the optimizer's step."""


class OnLayers(Penalty):
    """A penalty on layers, each for itself."""

    layers: Annotated[tuple[str, ...], ITEMS] | None = None
    """Names of layers or shell patterns; null means all weights (max_norm: all but the heads)."""

    def named(self) -> Iterator[tuple[str, str]]:
        return ((f"/layers/{i}", pattern) for i, pattern in enumerate(self.layers or ()))

    def over(self, names: Sequence[str]) -> list[str]:
        return matching(self.layers, names, spare_heads=self.spares_heads)

    def filled(self, names: Sequence[str]) -> Self:
        return self if self.layers is not None else self.model_copy(update={"layers": tuple(self.over(names))})
