"""Dropout as an argument of forward: one network, asked through different gates.

Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting"; the inverted convention of
that paper's appendix A.2: kept units are divided by their keep probability when masks are drawn, and nothing happens at prediction.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from pydantic import BeforeValidator
from torch import Tensor

from service.tricks.choices import Only, refuse
from service.values import ITEMS, DropRate, Value

_STEPS = 2**16


class Site(NamedTuple):
    """A place where units can be dropped: its name, how many units, and the rate of dropping one."""

    name: str
    units: int
    rate: float


class Gate(Protocol):
    """What happens to the units at a site."""

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        """x with its last axis, the site's units, gated."""
        ...


class Scaled:
    """The weight scaling inference rule: with inverted dropout in training, the identity."""

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        return x


class Sampled:
    """A fresh mask per row and unit, scaled by 1 / (1 - rate)."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        return x * draw_mask(x.shape, site.rate, self.generator) if site.rate else x


class Replayed:
    """Given masks by site, broadcast against the units; sites without one are left alone."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        mask = self.masks.get(site.name)
        return x if mask is None else x * mask


SCALED = Scaled()


def draw_mask(shape: tuple[int, ...] | torch.Size, rate: float, generator: torch.Generator) -> Tensor:
    """Scaled float32 mask: 0 with probability `rate`, else 1 / (1 - rate), so that its mean is 1.

    Bits are drawn as 64-bit words and cut into four, a quarter of the cost of one uniform number each; the rate is
    thereby a multiple of 2^-16, and the scale is that of the rounded rate.
    """
    dropped = min(max(round(rate * _STEPS), 1), _STEPS - 1) if rate else 0
    count = torch.Size(shape).numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    kept = words.view(torch.int16)[:count] >= dropped - _STEPS // 2
    return kept.to(torch.float32).mul_(_STEPS / (_STEPS - dropped)).view(shape)


def _rates(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        raise refuse("unknown-choice", "this release has one rate per layer, not one per unit")
    return value


class Dropout(Value):
    """Rates of dropping: of inputs, and of hidden units, one for all layers or one per layer."""

    input: DropRate = 0.0
    """Rate of dropping inputs."""
    hidden: Annotated[DropRate | Annotated[tuple[DropRate, ...], ITEMS], BeforeValidator(_rates)] = 0.0
    """Rate of dropping hidden units: one for all layers, or a list with one per layer."""
    channel: Annotated[float, Only(0.0)] = 0.0
    """Rate of dropping whole channels of a convolution; 0 without convolutions."""

    def hidden_rates(self, layers: int) -> tuple[float, ...]:
        """One rate per hidden layer; a single rate stands for all."""
        return self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * layers


def _dropout(value: Any) -> Any:
    """A bare number is the rate of the hidden units."""
    return {"hidden": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


DropoutRates = Annotated[Dropout, BeforeValidator(_dropout, json_schema_input_type=DropRate | Dropout)]
