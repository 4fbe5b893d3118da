"""Dropout as an argument of forward: one network, asked through different gates.

Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting"; the inverted convention of
that paper's appendix A.2: kept units are divided by their keep probability when masks are drawn, and nothing happens at prediction.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Tag
from torch import Tensor

from service.tricks.choices import refuse
from service.values import ITEMS, DropRate, Value

STEPS = 2**16
"""A rate is a multiple of 1 / STEPS when masks are drawn."""
_BLOCK, _MOST_PASSES = 2**17, 16
"""Entries of a member's masks that are drawn at once, about what stays in a processor's cache, and for at most how many passes."""


Rate = float | tuple[float, ...]
"""One for all units, or one for each where they differ: it is false where no unit is dropped, as `Dropout.hidden_rates` makes it."""


class Site(NamedTuple):
    """A place where units can be dropped: its name, how many units, and the rate of dropping one, or each of them."""

    name: str
    units: int
    rate: Rate

    @property
    def rates(self) -> NDArray[np.float64]:
        """Each unit's rate [units]."""
        return np.broadcast_to(np.asarray(self.rate, dtype=np.float64), self.units)

    @property
    def droppable(self) -> int:
        """How many units have a rate."""
        return int(np.count_nonzero(self.rates))


class Gate(Protocol):
    """What happens to the units at a site."""

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        """x with its last axis, the site's units, gated."""
        ...


class Watcher(ABC):
    """A gate that looks at what a network computes.

    Where units lie in space or time a gate is asked for one mask for all places: what these hold comes by `watch`.
    """

    @abstractmethod
    def __call__(self, x: Tensor, site: Site) -> Tensor:
        """As any gate."""

    @abstractmethod
    def watch(self, x: Tensor, site: Site) -> None:
        """Features [N, units] of a site whose layers have more axes, each place or step as a row."""


class Scaled:
    """The weight scaling inference rule: with inverted dropout in training, the identity."""

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        return x


@dataclass
class _Drawn:
    """Masks of several passes at one site, [K, rows, units] each, and from where in each member's stream they came."""

    passes: list[Tensor]
    before: list[Tensor]
    used: int = 0


class Sampled:
    """A fresh mask per row and unit, scaled by 1 / (1 - rate); each member's from a stream of its own.

    The masks of several passes are drawn at once. How many depends on the site alone, so that neither a stack nor its
    size changes a member's numbers. `rows` is the most that a pass has; features of a stack are [K, .., rows, units].
    `rates` has the members' own rates by site, where they differ.
    """

    def __init__(
        self,
        streams: Sequence[torch.Generator],
        rows: int,
        *,
        stacked: bool = False,
        rates: Mapping[str, Sequence[Rate]] | None = None,
    ) -> None:
        self._streams = list(streams)
        self._rows = rows
        self._stacked = stacked
        self._rates = dict(rates or {})
        self._drawn: dict[str, _Drawn] = {}

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        """x times the next mask of the site."""
        if not (any(self._rates[site.name]) if site.name in self._rates else site.rate):
            return x
        drawn = self._drawn.get(site.name)
        if drawn is None or drawn.used == len(drawn.passes):
            drawn = self._drawn[site.name] = self._draw(site)
        mask, rows = drawn.passes[drawn.used], x.shape[-2]
        drawn.used += 1
        return x * (mask if rows == self._rows else mask[..., :rows, :])

    def _draw(self, site: Site) -> _Drawn:
        """Fresh masks; not in place of the old ones, which a backward pass may still need."""
        before = [stream.get_state() for stream in self._streams]
        passes = max(1, min(_MOST_PASSES, _BLOCK // (self._rows * site.units)))
        shape = passes, self._rows, site.units
        own = self._rates.get(site.name)
        masks = draw_masks(shape, site.rate, self._streams) if own is None else draw_own_masks(shape, own, self._streams)
        return _Drawn(list(masks.unbind(1) if self._stacked else masks[0]), before)

    def without(self, ended: Sequence[int]) -> "Sampled":
        """The gate of the stack that is left when the members at these places have ended, in the middle of its masks."""
        places = [place for place in range(len(self._streams)) if place not in ended]
        rates = {name: [own[place] for place in places] for name, own in self._rates.items()}
        left = Sampled([self._streams[place] for place in places], self._rows, stacked=self._stacked, rates=rates)
        left._drawn = {
            name: _Drawn([masks[places] for masks in drawn.passes], [drawn.before[place] for place in places], drawn.used)
            for name, drawn in self._drawn.items()
        }
        return left

    def capture(self) -> dict[str, Any]:
        """By site: the members' streams before the masks at hand were drawn, and how many of these are used."""
        return {name: {"before": drawn.before, "used": drawn.used} for name, drawn in self._drawn.items()}

    def restore(self, captured: Mapping[str, Any], sites: Sequence[Site]) -> None:
        """Draw again what `capture` was taken in the middle of; the streams are left wherever that leads."""
        self._drawn = {}
        for site in sites:
            if (saved := captured.get(site.name)) is not None:
                for stream, state in zip(self._streams, saved["before"], strict=True):
                    stream.set_state(state)
                self._drawn[site.name] = self._draw(site)
                self._drawn[site.name].used = saved["used"]


class Replayed:
    """Given masks by site, broadcast against the units; sites without one are left alone."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        mask = self.masks.get(site.name)
        return x if mask is None else x * mask


SCALED = Scaled()


def draw_mask(shape: tuple[int, ...] | torch.Size, rate: Rate, generator: torch.Generator) -> Tensor:
    """Scaled float32 mask [.., units]: 0 with probability `rate`, else 1 / (1 - rate), so that its mean is 1."""
    return draw_masks(shape, rate, [generator])[0]


def draw_masks(shape: tuple[int, ...] | torch.Size, rate: Rate, generators: Sequence[torch.Generator]) -> Tensor:
    """Masks [K, *shape], each from its generator.

    Bits are drawn as 64-bit words and cut up, an eighth of the cost of one uniform number each, or less; the rate is
    thereby a multiple of 2^-16, and the scale is that of the rounded rate.
    """
    return draw_own_masks(shape, [rate] * len(generators), generators)


def draw_own_masks(shape: tuple[int, ...] | torch.Size, rates: Sequence[Rate], generators: Sequence[torch.Generator]) -> Tensor:
    """The same with a rate for each generator; those whose rate is 0 draw nothing, as by themselves."""
    masks = torch.empty((len(generators), *shape), device=generators[0].device)
    for mask, rate, generator in zip(masks, rates, generators, strict=True):
        if not rate:
            mask.fill_(1.0)
        elif mask.device.type == "cpu":
            _fill(mask.numpy().reshape(-1), rate, generator)
        else:
            least, scale = (torch.tensor(part, device=mask.device) for part in cut(rate))
            bits = _words(2 * mask.numel(), generator).view(torch.int16)[: mask.numel()]
            mask.copy_(bits.view(mask.shape) >= least).mul_(scale)
    return masks


def _fill(mask: NDArray[np.float32], rate: Rate, generator: torch.Generator) -> None:
    """Write what is kept, scaled, over the entries of a mask, units being the last axis; numpy takes a fifth of torch's time for it.

    The upper bytes of random 16-bit numbers decide, but for those that equal the bound's: only these, one in 256, draw a lower
    byte, and none do where the bound's own is 0. At a rate of one half a bit decides. Drawing is most of what a mask costs.
    """
    least, scale = cut(rate)
    if not least.any():
        np.multiply(np.unpackbits(_bytes(-(-len(mask) // 8), generator), count=len(mask)), np.float32(2), out=mask)
        return
    upper, lower = np.divmod(least.astype(np.int32) + STEPS // 2, 256)
    drawn, mask = _bytes(len(mask), generator), mask if len(least) == 1 else mask.reshape(-1, len(least))
    drawn = drawn.reshape(mask.shape)
    mask[...] = drawn >= upper.astype(np.uint8)
    if lower.any():
        open_ = np.flatnonzero(drawn == upper.astype(np.uint8))
        mask.reshape(-1)[open_] = _bytes(len(open_), generator) >= lower[open_ % len(lower)]
    mask *= scale.astype(np.float32)


def _bytes(count: int, generator: torch.Generator) -> NDArray[np.uint8]:
    drawn: NDArray[np.uint8] = _words(count, generator).view(torch.uint8)[:count].numpy()
    return drawn


def _words(size: int, generator: torch.Generator) -> Tensor:
    """Random int64 that take up at least `size` bytes."""
    return torch.empty(-(-size // 8), dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)


@lru_cache(maxsize=256)
def cut(rate: Rate) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The least of random int16 that keeps a unit, and the scale of what is kept: one, or one for each unit.

    A rate is rounded to steps of 2^-16: 0 for 0, else at least one step from 0 and from 1.
    """
    steps = keep_steps(rate)
    least, scale = (STEPS // 2 - steps).astype(np.int16), STEPS / steps
    least.flags.writeable = scale.flags.writeable = False
    return least, scale


def keep_steps(rate: Rate) -> NDArray[np.float64]:
    """The probability of keeping a unit that masks are drawn with, in steps of 2^-16: one, or one for each unit."""
    rates = np.atleast_1d(np.asarray(rate, dtype=np.float64))
    return STEPS - np.where(rates > 0, np.clip(np.rint(rates * STEPS), 1, STEPS - 1), 0)


def disconnected(sites: Sequence[Site]) -> float:
    """The share of masks that leave no path from an input to an output: some site has all its units dropped.

    1 - prod over sites of (1 - prod over units of the rate), for a dense net without bridges, sites being its layers, inputs
    among them (Goodfellow, Bengio and Courville 2016, "Deep Learning", section 7.12); exact for the rates as given.
    """
    return -math.expm1(sum(math.log1p(-float(np.prod(site.rates))) for site in sites if site.rate))


LayerRate = Annotated[
    Annotated[DropRate, Tag("number")] | Annotated[tuple[DropRate, ...], ITEMS, Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number"),
]


class Dropout(Value):
    """Rates of dropping: of inputs, and of hidden units, one for all layers or one per layer, there one for all units or one per unit."""

    input: DropRate = 0.0
    """Rate of dropping inputs."""
    hidden: DropRate | Annotated[tuple[LayerRate, ...], ITEMS] = 0.0
    """Rate of dropping hidden units: one for all layers, or a list with one per layer, each a number or a list with one per unit."""
    channel: DropRate = 0.0
    """Rate of dropping whole channels of a convolution; 0 without convolutions."""

    def check(self, widths: Sequence[int]) -> None:
        """Raises a refusal where there are not as many rates as hidden layers of these widths, or as units in one of them."""
        if not isinstance(self.hidden, tuple):
            return
        if len(self.hidden) != len(widths):
            raise refuse("inconsistent-spec", f"{len(self.hidden)} rates for {len(widths)} layers", pointer="/dropout/hidden")
        for i, (rate, width) in enumerate(zip(self.hidden, widths, strict=True)):
            if isinstance(rate, tuple) and len(rate) != width:
                raise refuse("inconsistent-spec", f"{len(rate)} rates for {width} units", pointer=f"/dropout/hidden/{i}")

    def hidden_rates(self, layers: int) -> tuple[Rate, ...]:
        """One rate per hidden layer, or a list where its units' rates differ; a single rate stands for all layers."""
        each = self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * layers
        return tuple(map(evened, each))


def evened(rate: Rate) -> Rate:
    """One number in place of a list of equal ones."""
    return rate[0] if isinstance(rate, tuple) and len(set(rate)) == 1 else rate


def _dropout(value: Any) -> Any:
    """A bare number is the rate of the hidden units."""
    return {"hidden": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


DropoutRates = Annotated[Dropout, BeforeValidator(_dropout, json_schema_input_type=DropRate | Dropout)]
