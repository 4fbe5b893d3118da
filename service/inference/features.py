"""What the best member looks for: its first layer's filters, and of each convolution the rows that channels answer to most."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.blocks import block_rows, spread
from service.inference.asking import CHUNK_ENTRIES
from service.inference.measuring import Inquiry
from service.inference.projecting import strongest
from service.nets.network import Network
from service.nets.projection import convolutions, peaks, project

LAYERS, CHANNELS, FILTERS = 3, 8, 32
"""Of a picture."""
MOST_ROWS, MOST_WORK = 200, 20_000_000_000
"""Rows that are looked through for each layer, and their multiplications."""
Floats = NDArray[np.float32]


class Sight(NamedTuple):
    """A layer's strongest channels [M], of each the row [M, *shape] and its projection [M, *shape]; both are cut to where they look."""

    layer: str
    channels: list[int]
    rows: Floats
    projections: Floats


class Features(NamedTuple):
    """The first convolution and its filters [C, *kernel, C'], channels last, and what some of the others see; `axes` of space.

    Of a dense net the first layer, whose filters are as large as the images.
    """

    layer: str
    filters: Floats
    sights: list[Sight]
    axes: int


def features(inquiry: Inquiry) -> Features | None:
    """The features of the best member on test rows, or of the last part there is; None where the first layer has no filters."""
    model, material = inquiry.model, inquiry.material
    network = model.networks[model.best]
    names = list(convolutions(network))
    if not names:
        return _dense(network)
    part = next(inquiry.parts[name] for name in ("test", "validation", "train") if name in inquiry.parts)
    most = min(MOST_ROWS, block_rows(4 * math.prod(network.spec.shape)), max(1, MOST_WORK // network.products))
    x = material.rows(spread(part, most))[0].float()
    # What the first one sees are its filters.
    later = names[1:] or names
    chosen = [later[place] for place in spread(np.arange(len(later)), LAYERS)]
    filters = first_filters(network, names[0])
    sights = []
    for name in chosen:
        inquiry.beat()
        sights.append(_sight(network, name, x, filters.ndim - 2))
    return Features(names[0], filters[:FILTERS], sights, filters.ndim - 2)


def first_filters(network: Network, layer: str) -> Floats:
    """The filters of a convolution [C, *kernel, C'], channels last."""
    convolved = next(module for module in network.layers()[layer].modules() if isinstance(module, nn.Conv1d | nn.Conv2d))
    filters: Floats = convolved.weight.detach().movedim(1, -1).numpy()
    return filters


def _dense(network: Network) -> Features | None:
    """The weights of a first linear layer as the images [units, *shape] that they weigh; None where it reads anything else."""
    name, layer = next(iter(network.layers().items()))
    linear = next((module for module in layer.modules() if isinstance(module, nn.Linear)), None)
    spec = network.spec
    if linear is None or spec.kind != "image" or spec.reads is not None or linear.in_features != math.prod(spec.shape):
        return None
    filters: Floats = linear.weight.detach()[:FILTERS].unflatten(1, spec.shape).numpy()
    return Features(name, filters, [], 2)


def _sight(network: Network, layer: str, x: Tensor, axes: int) -> Sight:
    """The layer's channels with the largest values on any of the rows x, each on its row."""
    chunk = max(1, CHUNK_ENTRIES // (network.entries + 1))
    values = torch.cat([peaks(network, layer, part).values for part in x.split(chunk)])
    channels = strongest(values.amax(0).unsqueeze(0), CHANNELS)[0]
    rows = x[values[:, channels].argmax(0)]

    def projected(*, rectify: bool) -> Floats:
        pairs = zip(rows.split(chunk), channels.unsqueeze(1).split(chunk), strict=True)
        signals: Floats = torch.cat([project(network, layer, *pair, rectify=rectify)[1][:, 0] for pair in pairs]).numpy()
        return signals

    return Sight(layer, channels.tolist(), *_cut(rows.numpy(), projected(rectify=True), projected(rectify=False) != 0, axes))


def _cut(rows: Floats, projections: Floats, reached: NDArray[np.bool_], axes: int) -> tuple[Floats, Floats]:
    """Windows of one size for all rows [M, *shape], the smallest that hold what each unit reaches."""
    for axis in range(1, 1 + axes):
        along: NDArray[np.bool_] = np.asarray(reached.any(axis=tuple(i for i in range(1, reached.ndim) if i != axis)))
        held = np.asarray(along.any(axis=1))
        starts = np.where(held, along.argmax(1), 0)
        ends = np.where(held, along.shape[1] - along[:, ::-1].argmax(1), along.shape[1])
        width = int((ends - starts).max())
        starts = np.clip((starts + ends - width) // 2, 0, along.shape[1] - width)
        places = starts[:, None] + np.arange(width)
        index = places.reshape(len(rows), *(-1 if i == axis else 1 for i in range(1, rows.ndim)))
        rows, projections = (np.take_along_axis(each, index, axis) for each in (rows, projections))
        reached = np.take_along_axis(reached, index, axis)
    return rows, projections
