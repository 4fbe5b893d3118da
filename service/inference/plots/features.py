"""First-layer filters, and of some convolutions the rows that channels answer to most, over what they see of them."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.inference.features import Features, Sight
from service.inference.plots.canvas import WIDTH, bare, label, picture

ACROSS = 16
"""Filters side by side."""
GAP = 0.08
"""Between tiles, of a tile's width."""
MOST_PIXELS = 64
"""The side to which larger images are thinned out."""
Floats = NDArray[np.float32]


def features(found: Features) -> bytes:
    """Filters on top; of each layer a line of rows over one of their projections. Grey is 0 in filters and projections."""
    lines = -(-len(found.filters) // ACROSS)
    tall, wide = tile(found.filters[0], found.axes).shape[:2]
    heights = [min(0.5, tall / wide * WIDTH / ACROSS) * lines, *(_height(sight, found.axes) for sight in found.sights)]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        show(grid[0], [tile(signed(one), found.axes) for one in found.filters], ACROSS)
        grid[0].set_title(f"filters of {label(found.layer, 24)}")
        for axes, sight in zip(grid[1:], found.sights, strict=True):
            seen(axes, sight, found.axes)

    return picture(draw, width=WIDTH, height=0.3 + sum(heights) + 0.45 * len(found.sights))


def _height(sight: Sight, space: int) -> float:
    """Inches of a layer's two lines."""
    tall, wide = tile(sight.rows[0], space).shape[:2]
    return float(2 * tall / wide * (WIDTH - 0.6) / len(sight.rows))


def seen(axes: Axes, sight: Sight, space: int) -> None:
    """A layer's channels, by their numbers: rows, and below them what the channel's strongest unit saw."""
    low, high = float(sight.rows.min()), float(sight.rows.max())
    rows = [tile((row - low) / (high - low or 1.0), space) for row in sight.rows]
    projections = [tile(signed(one), space) for one in sight.projections]
    tall, wide = show(axes, [*rows, *projections], len(rows))
    axes.set_title(label(sight.layer, 40))
    axes.set_xticks([(place + 0.5) * wide for place in range(len(rows))], [str(channel) for channel in sight.channels])
    axes.set_yticks([0.5 * tall, 1.5 * tall], ["row", "seen"])
    axes.tick_params(length=0, labelsize=8)


def signed(values: Floats) -> Floats:
    """Values in [0, 1], 0 in the middle and the largest size at an end."""
    shades: Floats = 0.5 + 0.5 * values / (float(np.abs(values).max()) or 1.0)
    return shades


def tile(shades: Floats, space: int) -> Floats:
    """An image [H, W, 3] of shades [H, W] or [H, W, C], the mean of what are no colours; of a sequence [T, F], time from left to right."""
    shades = np.nan_to_num(shades, nan=0.5, posinf=1.0, neginf=0.0).clip(0, 1)
    if space == 1:
        shades = shades.T
    elif shades.ndim == 3 and shades.shape[-1] != 3:
        shades = shades.mean(-1)
    step = -(-max(shades.shape[:2]) // MOST_PIXELS)
    thinned = shades[::step, ::step]
    return thinned if thinned.ndim == 3 else np.repeat(thinned[..., None], 3, axis=-1)


def show(axes: Axes, tiles: Sequence[Floats], across: int) -> tuple[float, float]:
    """Tiles in lines of so many; height and width of a tile and its gap, in the image's units."""
    height, width = tiles[0].shape[:2]
    # Pixels of the mosaic are parts of the tiles' own, so that gaps may be thinner than those.
    scale = math.ceil(16 / max(height, width))
    gap = max(1, round(GAP * scale * max(height, width)))
    tall, wide = scale * height + gap, scale * width + gap
    mosaic = np.zeros((-(-len(tiles) // across) * tall - gap, across * wide - gap, 4), dtype=np.float32)
    for place, shades in enumerate(tiles):
        top, left = place // across * tall, place % across * wide
        mosaic[top : top + tall - gap, left : left + wide - gap, :3] = np.kron(shades, np.ones((scale, scale, 1), dtype=np.float32))
        mosaic[top : top + tall - gap, left : left + wide - gap, 3] = 1.0
    axes.imshow(mosaic, interpolation="none")
    bare(axes)
    return tall, wide
