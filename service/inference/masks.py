"""Dropout masks at prediction: fresh ones for every row and sample, subnetworks that all rows share, and all that there are.

A fresh mask follows from the row's numbers, the stream and the sample's number alone, so that neither a row's neighbours,
nor its place among them, nor the chunks that rows and samples are taken in change its answer.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.errors import unavailable
from service.seeds import derive
from service.tricks.dropout import Gate, Replayed, Site, cut
from service.tricks.modes import EXACT_UNITS, Axes
from service.tricks.streams import GOLDEN, Words, mix

PER_WORD = 4
"""Units whose bits are cut from one 64-bit word."""
BLOCK_WORDS = 2**15
"""Words that are mixed at once, about what stays in a core's cache."""


def digests(x: Tensor) -> Words:
    """64 bits [N] of each row's numbers as float32; -0 is 0."""
    rows = (x.detach().to("cpu", torch.float32) + 0.0).flatten(1).contiguous().numpy()
    return np.frombuffer(b"".join(blake2b(row, digest_size=8).digest() for row in rows), dtype=np.uint64)


def keys(rows: Words, axes: Axes, member: int, site: Site) -> Words:
    """Each row's key [N] at a site of a member, from its digest and the request's seed."""
    return mix(rows ^ np.uint64(derive(axes.seed, member, f"masks {site.name}")))


def fresh_masks(own: Words, site: Site, samples: range, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scaled masks [S, N, units] of the samples of that number: output w of splitmix64 from each row's key has the bits of four units."""
    words, (least, scale) = -(-site.units // PER_WORD), cut(site.rate)
    masks: NDArray[Any] = np.empty((len(samples), len(own), site.units), dtype=np.float64 if dtype == torch.float64 else np.float32)
    most = max(1, BLOCK_WORDS // (len(own) * words))
    for start in range(0, len(samples), most):
        block = masks[start : start + most]
        first = samples[start] * words
        counters = np.arange(first + 1, first + 1 + len(block) * words, dtype=np.uint64) * GOLDEN
        bits = mix(counters.reshape(-1, 1, words) + own[:, None]).view(np.int16)[..., : site.units]
        block[...] = bits >= least
        block *= scale.astype(block.dtype)
    return torch.from_numpy(masks).to(dtype)


class Fresh:
    """A mask for every row and sample, [S, N, units]; rows [N, units] or [S, N, units] get the samples' axis in front."""

    def __init__(self, own: Mapping[str, Words], samples: range) -> None:
        self._own = own
        self._samples = samples

    def __call__(self, x: Tensor, site: Site) -> Tensor:
        """x times the site's masks."""
        own = self._own.get(site.name)
        return x if own is None else x * fresh_masks(own, site, self._samples, x.dtype)


def fresh_gates(sites: tuple[Site, ...], axes: Axes, rows: Words, *, member: int, most: int) -> Iterator[tuple[Gate, Tensor]]:
    """Gates of at most so many samples each for rows of these digests, with the share of every sample in the average."""
    samples = drawn(axes)
    own = {site.name: keys(rows, axes, member, site) for site in dropped_sites(sites)}
    for start in range(0, samples, most):
        part = range(start, min(start + most, samples))
        yield Fresh(own, part), torch.full((len(part),), 1.0 / samples, dtype=torch.float64)


def shared_gates(sites: tuple[Site, ...], axes: Axes, *, member: int, most: int) -> Iterator[tuple[Gate, Tensor]]:
    """The same with masks that do not look at the rows, [S, 1, units]: each sample is one subnetwork, whose gradient is defined."""
    dropped, samples = dropped_sites(sites), drawn(axes)
    streams = {site.name: torch.Generator().manual_seed(derive(axes.seed, member, f"masks {site.name}")) for site in dropped}
    for start in range(0, samples, most):
        count = min(most, samples - start)
        masks = {s.name: torch.stack([_subnetwork(s, streams[s.name]) for _ in range(count)]) for s in dropped}
        yield Replayed(masks), torch.full((count,), 1.0 / samples, dtype=torch.float64)


def _subnetwork(site: Site, stream: torch.Generator) -> Tensor:
    """A scaled mask [1, units], cut from 16 bits a unit as stored models have always been asked, however masks are drawn in training."""
    least, scale = cut(site.rate)
    words = torch.empty(-(-site.units // PER_WORD), dtype=torch.int64).random_(-(2**63), None, generator=stream)
    bits: NDArray[Any] = words.numpy().view(np.int16)[: site.units]
    return torch.from_numpy((bits >= least) * scale.astype(np.float32)).unsqueeze(0)


def all_gates(sites: tuple[Site, ...], axes: Axes, *, most: int, dtype: torch.dtype) -> Iterator[tuple[Gate, Tensor]]:
    """Every mask of at most 16 droppable units, with its probability; raises ModeUnavailable where there are more."""
    dropped = dropped_sites(sites)
    units = enumerable(sites, axes)
    places = torch.arange(units - 1, -1, -1)
    for numbers in torch.arange(1 << units).split(most):
        kept = (numbers.unsqueeze(1) >> places & 1).double()
        masks, shares = {}, torch.ones(len(kept), dtype=torch.float64)
        for site, part in zip(dropped, kept.split([site.droppable for site in dropped], dim=1), strict=True):
            rates = torch.from_numpy(site.rates.copy())
            rate, mask = rates[rates > 0], torch.ones(len(kept), site.units, dtype=torch.float64)
            mask[:, rates > 0] = part / (1 - rate)
            masks[site.name] = mask.to(dtype).unsqueeze(1)
            shares = shares * (part * (1 - rate) + (1 - part) * rate).prod(1)
        yield Replayed(masks), shares


def dropped_sites(sites: tuple[Site, ...]) -> list[Site]:
    """Those whose units can be dropped."""
    return [site for site in sites if site.rate]


def drawn(axes: Axes) -> int:
    """Masks that are drawn for each member."""
    return axes.samples if axes.dropout == "monte_carlo" else 1


def enumerable(sites: tuple[Site, ...], axes: Axes) -> int:
    """Droppable units; raises ModeUnavailable where their masks are too many to go through."""
    units = sum(site.droppable for site in sites)
    if units > EXACT_UNITS:
        raise unavailable(axes.masked_by, f"exact enumerates the masks of at most {EXACT_UNITS} droppable units; the network has {units}.")
    return units
