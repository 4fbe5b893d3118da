"""What attacks and training draw for rows: from one stream for all of them, or from a stream of each row's own."""

import math
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from service.seeds import derive
from service.tricks.streams import GOLDEN, Words, mix, row_keys

Shape = tuple[int, ...]


class Draws(Protocol):
    """Random numbers of a shape [N, ...] as float32, whose first axis is that of the rows."""

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform between two bounds."""
        ...

    def normal(self, shape: Shape) -> Tensor:
        """Standard normal."""
        ...

    def signs(self, shape: Shape) -> Tensor:
        """-1 and 1."""
        ...

    def below(self, most: int, shape: Shape) -> Tensor:
        """Integers from 0 to most - 1, as int64."""
        ...


class Common(NamedTuple):
    """One stream of torch's for all rows: what a row gets depends on those before it."""

    generator: torch.Generator

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform between two bounds."""
        return torch.empty(shape, device=self.generator.device).uniform_(low, high, generator=self.generator)

    def normal(self, shape: Shape) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def signs(self, shape: Shape) -> Tensor:
        """-1 and 1."""
        return self.below(2, shape).float() * 2 - 1

    def below(self, most: int, shape: Shape) -> Tensor:
        """Integers from 0 to most - 1."""
        return torch.randint(0, most, shape, generator=self.generator, device=self.generator.device)


class OfRows:
    """A splitmix64 stream for each row, which follows from a seed and the row's number: in any batch a row gets the same."""

    def __init__(self, keys: Words, device: torch.device, at: int = 0) -> None:
        self._keys = keys
        self._device = device
        self._at = at

    @classmethod
    def numbered(cls, seed: int, numbers: Tensor) -> Self:
        """The streams of rows with these numbers [N], at their beginning; numbers come to where those are."""
        keys = row_keys([derive(seed, 0, "attack")], numbers.cpu().numpy()[None], epoch=0, place=0)
        return cls(keys[0], numbers.device)

    def only(self, chosen: Tensor) -> Self:
        """The streams of some of the rows, by their indices, from where all are."""
        return type(self)(self._keys[chosen.cpu().numpy()], self._device, self._at)

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform between two bounds, on 2^24 levels."""
        levels = self._halves(shape).bitwise_right_shift(8).bitwise_and(0xFFFFFF).to(torch.float32)
        return levels.mul_(2.0**-24 * (high - low)).add_(low)

    def normal(self, shape: Shape) -> Tensor:
        """The normal quantiles of 2^23 levels that lie evenly about 0."""
        # Odd numbers between -2^23 and 2^23: symmetric, exact as float32, and never at an end.
        levels = self._halves(shape).bitwise_right_shift(8).bitwise_or(1).to(torch.float32).mul_(2.0**-23)
        return levels.erfinv_().mul_(math.sqrt(2))

    def signs(self, shape: Shape) -> Tensor:
        """-1 and 1, a bit each."""
        count = math.prod(shape[1:])
        bits = np.unpackbits(self._words(-(-count // 64)).view(np.uint8), axis=1, count=count)
        return torch.from_numpy(bits).to(self._device).to(torch.float32).mul_(2).sub_(1).view(shape)

    def below(self, most: int, shape: Shape) -> Tensor:
        """Integers from 0 to most - 1."""
        count = math.prod(shape[1:])
        return torch.from_numpy((self._words(count) % np.uint64(most)).astype(np.int64)).to(self._device).view(shape)

    def _halves(self, shape: Shape) -> Tensor:
        """Thirty-two random bits each, as int32."""
        count = math.prod(shape[1:])
        return torch.from_numpy(self._words(-(-count // 2)).view(np.int32)[:, :count]).to(self._device).reshape(shape)

    def _words(self, count: int) -> Words:
        """The next outputs of each row's stream [N, count]."""
        places = np.arange(self._at, self._at + count, dtype=np.uint64) * GOLDEN
        self._at += count
        return mix(places + self._keys[:, None])
