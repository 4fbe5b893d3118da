"""Which pictures there are, and how one is made: equal code gives equal bytes on one machine."""

import importlib
import random
from pathlib import Path

import numpy as np
import torch
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from threadpoolctl import threadpool_limits

from service.inference.plots.canvas import picture

MODULES = Path(__file__).parent
PICTURES = MODULES.parents[1] / "docs" / "pictures"
WIDTH, HEIGHT = 5.6, 3.4
"""Inches; a page is read at the width of a screen."""
_NOT_TOPICS = ("__init__", "__main__", "gallery")


def topics() -> list[str]:
    """The names of all pictures."""
    return sorted(path.stem for path in MODULES.glob("*.py") if path.stem not in _NOT_TOPICS)


def path_of(topic: str) -> Path:
    """Where the picture lies; `early_stopping` is that of the page `early-stopping`."""
    return PICTURES / f"{topic.replace('_', '-')}.svg"


def drawn(topic: str) -> bytes:
    """The topic's SVG, on one thread and from fixed seeds, whatever was drawn before it."""
    module = importlib.import_module(f"benchmarks.pictures.{topic}")
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    # Sums depend on the number of threads; torch's products are not among those that threadpoolctl limits.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return picture(module.draw, height=HEIGHT, width=WIDTH)
    finally:
        torch.set_num_threads(before)


def decades(axis: Axis) -> None:
    """Ticks at the powers of ten of a logarithmic axis, as plain numbers: our pictures take no `$` for mathematics."""
    axis.set_major_locator(LogLocator())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
