"""Training rows as they are stored and as training saw them, epoch by epoch."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from service.inference.augmenting import Seen, seen
from service.inference.material import Material
from service.inference.plots.canvas import bare, label, picture

SHOWN, EPOCHS, MOST_PIXELS = 8, 3, 64
"""Rows and epochs that are drawn, and the side to which larger images are thinned out."""
Floats = NDArray[np.float32]


def augmentation(material: Material, member: int) -> bytes:
    """The first rows of the member's first batch, as stored and as training saw them in its first epochs."""
    found = seen(material, member, count=SHOWN, epochs=min(EPOCHS, material.spec.epochs))
    images = found.stored.ndim in (3, 4)
    names = ["stored", *(f"epoch {epoch + 1}" for epoch in range(len(found.epochs)))]
    versions = [found.stored, *(x for x, _ in found.epochs)]

    def draw(figure: Figure) -> None:
        if images:
            _images(figure, versions, names, _titles(found, material))
        else:
            _matrices(figure, [_standard(x, material) for x in versions], names)
        figure.suptitle(f"Rows {', '.join(map(str, found.rows[:SHOWN]))}", size=9.5)

    return picture(draw, height=0.8 * len(versions) + 0.5 if images else 2.6)


def _images(figure: Figure, versions: Sequence[Tensor], names: Sequence[str], titles: list[list[str]]) -> None:
    """A line of images per version, all in one range of grey, with their labels where they were mixed."""
    low, high = float(versions[0].min()), float(versions[0].max())
    grid = figure.subplots(len(versions), len(versions[0]), squeeze=False)
    for line, x in enumerate(versions):
        for place, image in enumerate(x.numpy()):
            axes = grid[line, place]
            step = -(-max(image.shape[:2]) // MOST_PIXELS)
            axes.imshow(_shades(image[::step, ::step], low, high), cmap="gray", vmin=0, vmax=1, interpolation="none")
            axes.set_title(titles[line][place], size=7 if len(titles[line][place]) < 9 else 5.5, loc="center", pad=2)
            bare(axes)
        grid[line, 0].set_ylabel(names[line], size=8)


def _shades(image: Floats, low: float, high: float) -> Floats:
    """Values in [0, 1]; of channels the three that are colours, or their mean."""
    shown = np.clip((image - low) / (high - low or 1.0), 0, 1)
    grey: Floats = shown if shown.ndim == 2 or shown.shape[-1] == 3 else shown.mean(-1)
    return grey


def _matrices(figure: Figure, versions: Sequence[Floats], names: Sequence[str]) -> None:
    """Rows as lines of a matrix, their entries in standard deviations of the training rows."""
    grid = figure.subplots(1, len(versions), squeeze=False)[0]
    for axes, x, name in zip(grid, versions, names, strict=True):
        axes.imshow(x[:, :MOST_PIXELS], cmap="RdBu", vmin=-3, vmax=3, interpolation="none", aspect="auto")
        axes.set_title(name, size=8, loc="center", pad=3)
        bare(axes)
    grid[0].set_ylabel("rows", size=8)
    grid[0].set_xlabel("inputs", size=8)


def _standard(x: Tensor, material: Material) -> Floats:
    normal: Floats = material.preprocess(x).flatten(1).numpy()
    return normal


def _titles(found: Seen, material: Material) -> list[list[str]]:
    """What each image is labelled with: the class, or the largest shares of classes that were mixed."""
    target, names = next(
        ((target.name, names) for target, names in zip(material.spec.targets or (), material.classes, strict=True) if names), ("", None)
    )
    if names is None:
        return [[""] * len(found.rows)] * (1 + len(found.epochs))
    stored = material.labels[target][torch.from_numpy(found.rows)]
    return [[_title(one, names) for one in labels] for labels in (stored, *(labels[target] for _, labels in found.epochs))]


def _title(one: Tensor, names: Sequence[str]) -> str:
    if not one.is_floating_point():
        return label(names[int(one)], 8) if one >= 0 else "?"
    if bool(one.isnan().any()):
        return "?"
    parts = [(float(share), label(names[place], 5)) for place, share in enumerate(one) if share > 0.005]
    return " ".join(name if share > 0.995 else f"{name}·{share:.2f}".replace("0.", ".") for share, name in sorted(parts, reverse=True)[:2])
