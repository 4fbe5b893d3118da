"""Random numbers that follow from a row's number: one stream per (seed, epoch, transform, row), of which any piece stands alone."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_CHOSEN, _RING, _FIRST = 1, 2, 8
"""Places in a row's stream: whether it is chosen, where it stands among the rows of a batch, and what its transform draws."""


def mix(z: Words) -> Words:
    """The finalizer of splitmix64, in place (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
    shifted = np.empty_like(z)
    for bits, factor in _ROUNDS:
        z ^= np.right_shift(z, np.uint64(bits), out=shifted)
        z *= np.uint64(factor)
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return z


def row_keys(seeds: Sequence[int], rows: NDArray[np.int64], *, epoch: int, place: int) -> Words:
    """Keys [K, B] of rows [K, B] of members with these seeds, for the transform at that place of a list of at most 64.

    Each step is an output of splitmix64: of the seed at (epoch, place), and of that at the row's number.
    """
    at = np.array([64 * epoch + place + 1], dtype=np.uint64)
    streams = mix(np.array(seeds, dtype=np.uint64)[:, None] + at * GOLDEN)
    return mix((rows.astype(np.uint64) + np.uint64(1)) * GOLDEN + streams)


class Draws:
    """The random numbers of the rows of K members' batches, from keys [K, B]; rows are flat here, N = K B."""

    def __init__(self, keys: Words) -> None:
        self._keys = keys

    def __len__(self) -> int:
        """N."""
        return self._keys.size

    def _words(self, start: int, count: int) -> Words:
        """Outputs start, start + 1, … of each row's splitmix64, [N, count]."""
        places = np.arange(start, start + count, dtype=np.uint64) * GOLDEN
        return mix(places + self._keys.reshape(-1, 1))

    def chosen(self, probability: float) -> NDArray[np.bool_] | None:
        """Which rows are changed, [N]; None for all of them."""
        return None if probability == 1 else _uniform(self._words(_CHOSEN, 1))[:, 0] < probability

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), [N, count]."""
        return _uniform(self._words(_FIRST, count))

    def normal(self, count: int, device: torch.device, *, std: float = 1.0) -> Tensor:
        """Numbers of N(0, std^2) as float32 [N, count]: the normal quantiles of 2^23 levels that lie evenly about 0."""
        bits = torch.from_numpy(self._words(_FIRST, -(-count // 2)).view(np.int32))[:, :count].to(device)
        # Odd numbers between -2^23 and 2^23: symmetric, exact as float32, and never at an end.
        levels = (bits.bitwise_right_shift(8).bitwise_or_(1)).to(torch.float32).mul_(2.0**-23)
        return levels.erfinv_().mul_(math.sqrt(2) * std)

    def partners(self) -> NDArray[np.int64]:
        """For each row another of its batch, [N]: rows stand in a ring in the order of a number of their own, and take the next."""
        members, batch = self._keys.shape
        ring = np.argsort(self._words(_RING, 1).reshape(members, batch), axis=1, kind="stable")
        found = np.empty(ring.shape, dtype=np.int64)
        np.put_along_axis(found, ring, np.roll(ring, -1, axis=1), axis=1)
        found += batch * np.arange(members)[:, None]
        return found.ravel()


def _uniform(words: Words) -> NDArray[np.float64]:
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
