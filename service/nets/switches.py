"""Switches of max pooling for boxes of features: where each window's maximum may be, and what unpooling may put there."""

from collections.abc import Callable

import torch
from torch import Tensor


class Switches:
    """Of every place [.., N, C, *S] whether its window's maximum may be there, and whether it is there for certain."""

    ndim = 0
    """They stand for any leading axes of what is unpooled."""

    def __init__(self, possible: Tensor, certain: Tensor, windows: Tensor) -> None:
        self.possible, self.certain = possible, certain
        self.windows = windows
        """The number of each place's window [*S]; -1 for places of none."""

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> "Switches":
        """The same with one of the leading axes taken apart."""
        return Switches(self.possible.unflatten(dim, sizes), self.certain.unflatten(dim, sizes), self.windows)

    def expand(self, *sizes: object) -> "Switches":
        """The same: leading axes are repeated where they are used."""
        return self

    def placed(self, ends: Tensor, worst: Callable[[Tensor], Tensor]) -> Tensor:
        """One end of what unpooling makes of boxes whose ends are those [.., N, C, *pooled]; `worst` with 0 is an end that may be 0."""
        there = spread(ends, self.windows)
        return torch.where(self.certain, there, torch.where(self.possible, worst(there), torch.zeros_like(there)))


def switches_of(low: Tensor, high: Tensor, chosen: tuple[Tensor, Tensor], extent: int, stride: int) -> Switches:
    """The switches of boxes [N, C, *S]: `chosen` are for their lower ends the maxima and for their centers the places of the maxima.

    A place may be the maximum's where its upper end reaches the largest lower end of its window. Windows of one point have the
    one switch that pooling takes, also where several entries are equal. Windows do not overlap.
    """
    most, places = chosen
    axes = most.ndim - 2
    windows = numbered(low.shape[2:], most.shape[2:], extent, stride).to(low.device)
    inside = windows >= 0
    possible = (high >= spread(most, windows)) & inside
    taken = torch.zeros_like(possible).flatten(-axes).scatter(-1, places.flatten(-axes), value=True).view_as(possible)
    single = spread(_counts(low != high, windows), windows) == 0
    possible = torch.where(single, taken, possible)
    return Switches(possible, possible & (spread(_counts(possible, windows), windows) == 1), windows)


def numbered(extents: torch.Size, pooled: torch.Size, extent: int, stride: int) -> Tensor:
    """The number of each place's window, row-major; -1 where it has none."""
    numbers = torch.zeros(extents, dtype=torch.int64)
    for axis, (size, count) in enumerate(zip(extents, pooled, strict=True)):
        place = torch.arange(size)
        own = torch.where((place % stride < extent) & (place // stride < count), place // stride, -1)
        own = own.view(-1, *[1] * (len(extents) - axis - 1))
        numbers = torch.where((numbers >= 0) & (own >= 0), numbers * count + own, -1)
    return numbers


def spread(values: Tensor, windows: Tensor) -> Tensor:
    """Each window's value [.., *pooled] at all its places [.., *S]; that of the first at places of none."""
    axes = windows.ndim
    at_places: Tensor = values.flatten(-axes)[..., windows.flatten().clamp(min=0)].unflatten(-1, windows.shape)
    return at_places


def _counts(held: Tensor, windows: Tensor) -> Tensor:
    """How many places [.., *S] of each window are held [.., windows]; in as many axes as space has."""
    axes, count = windows.ndim, int(windows.max()) + 1
    at = torch.where(windows >= 0, windows, count).flatten()
    sums = torch.zeros(*held.shape[:-axes], count + 1, dtype=torch.int64, device=held.device)
    sums = sums.index_add(-1, at, held.flatten(-axes).to(torch.int64))
    counts: Tensor = sums[..., :count].unflatten(-1, (count, *[1] * (axes - 1)))
    return counts
