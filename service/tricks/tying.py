"""Parameter tying and sharing: layers that are pulled together, and layers that are one (Goodfellow et al. 2016, section 7.9)."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from service.tricks.choices import AtMost, matching, refuse
from service.tricks.penalty import Alpha, Penalty, Tensors
from service.values import ITEMS, Value


class StoredLayer(Value):
    """A layer of a stored model, which stays what it is."""

    model: Annotated[str, Field(examples=["digits:3"])]
    """Id, name, name:version or name@alias."""
    layer: Annotated[str, Field(examples=["hidden.0"])]
    """The layer's name."""


Side = str | StoredLayer


class Tie(Penalty):
    """alpha * sum (A - B)^2 between two layers, with a gradient on both; a layer of a stored model is a constant."""

    type: Literal["tie"] = "tie"
    """A soft tie."""
    between: Annotated[tuple[Side, Side], ITEMS, Field(examples=[["hidden.0", "hidden.1"]])]
    """Two layers: names, or one of a stored model as `model` and `layer`."""
    alpha: Alpha
    """Strength."""
    transposed: bool = False
    """Whether the second's weights are transposed."""

    @model_validator(mode="after")
    def _is_between_two(self) -> "Tie":
        if self.transposed and self.parameters == "all":
            raise refuse("inconsistent-spec", "a bias has no transpose: transposed ties are of weights", pointer="/parameters")
        if not any(isinstance(side, str) for side in self.between):
            raise refuse("inconsistent-spec", "both sides are constants: one has to be a layer of the network", pointer="/between")
        if self.between[0] == self.between[1] and not self.transposed:
            raise refuse("inconsistent-spec", "a layer is tied to itself", pointer="/between/1")
        return self

    @property
    def steers(self) -> bool:
        return True

    def named(self) -> Iterator[tuple[str, str]]:
        return ((f"/between/{i}", side) for i, side in enumerate(self.between) if isinstance(side, str))

    def over(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self.between]

    def value(self, weights: Tensors) -> Tensor:
        """Of the first side's parameters followed by the second's."""
        gaps = (a - (b.mT if self.transposed else b) for a, b in _pairs(weights))
        return torch.stack([self.alpha * gap.square().sum() for gap in gaps]).sum()

    def add_gradient(self, weights: Tensors) -> None:
        """2 alpha (A - B) to A, and its opposite to B; what has no gradient stays."""
        for a, b in _pairs(weights):
            gap = a - (b.mT if self.transposed else b)
            if a is b and a.grad is not None:  # a layer and its own transpose: the gap's opposite is the gap, turned over
                a.grad.add_(gap, alpha=4 * self.alpha)
                continue
            if a.grad is not None:
                a.grad.add_(gap, alpha=2 * self.alpha)
            if b.grad is not None:
                b.grad.sub_(gap.mT if self.transposed else gap, alpha=2 * self.alpha)


class Share(Penalty):
    """Layers that are one: a single parameter that all of them use, with the sum of their gradients."""

    type: Literal["share"] = "share"
    """A hard tie."""
    layers: Annotated[tuple[str, ...], ITEMS, Field(min_length=1, examples=[["hidden.0", "hidden.1"]]), AtMost(128)]
    """Names of layers or shell patterns, two layers at least, all of one shape."""

    def named(self) -> Iterator[tuple[str, str]]:
        return ((f"/layers/{i}", pattern) for i, pattern in enumerate(self.layers))

    def over(self, names: Sequence[str]) -> list[str]:
        return matching(self.layers, names)

    def value(self, weights: Tensors) -> Tensor:
        """It adds nothing to the objective."""
        return weights[0].new_zeros(())


def _pairs(weights: Tensors) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of the first side with that of the second."""
    half = len(weights) // 2
    return zip(weights[:half], weights[half:], strict=True)
