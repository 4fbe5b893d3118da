"""Learning curves as a small inline SVG, for notebooks."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 200, 48, 20, 18
COLOURS = {"train.loss": "#7a7a7a", "validation.loss": "#1f6fb4"}
Columns = Mapping[str, np.ndarray[Any, Any]]


def svg(columns: Columns, title: str) -> str:
    """The loss on the training and validation rows against the epoch, a line per member; empty without finite values."""
    kept = np.isin(columns["name"], [*COLOURS]) & np.isfinite(columns["value"].astype(float))
    epoch, value = columns["epoch"][kept].astype(float), columns["value"][kept].astype(float)
    if not epoch.size:
        return ""
    (left, right), (low, high) = (epoch.min(), epoch.max()), (value.min(), value.max())
    x = LEFT + (epoch - left) / max(right - left, 1) * (WIDTH - LEFT - 8)
    y = TOP + (high - value) / max(high - low, 1e-12) * (HEIGHT - TOP - BOTTOM)
    name, member = columns["name"][kept], columns["member"][kept]
    lines = [
        _line(x[which], y[which], COLOURS[series])
        for series in COLOURS
        for one in np.unique(member)
        if (which := (name == series) & (member == one)).any()
    ]
    texts = [
        _text(0, TOP + 4, f"{high:.3g}"),
        _text(0, HEIGHT - BOTTOM, f"{low:.3g}"),
        _text(LEFT, HEIGHT - 4, f"epoch {left:.0f}"),
        _text(WIDTH - 40, HEIGHT - 4, f"{right:.0f}"),
        _text(LEFT, 10, title),
        *(_text(WIDTH - 190 + 80 * index, 10, series, colour) for index, (series, colour) in enumerate(COLOURS.items())),
    ]
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif" font-size="11">{"".join(lines + texts)}</svg>'
    )


def _line(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], colour: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2" opacity="0.7"/>'


def _text(x: float, y: float, text: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}">{escape(text)}</text>'
