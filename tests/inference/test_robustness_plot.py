"""The pictures of a robustness result show its numbers."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from service.inference.plots.robustness import Example, robustness

SVG = "{http://www.w3.org/2000/svg}"


def result(**change: Any) -> dict[str, Any]:
    curve = [{"epsilon": e, "accuracy": a, "low": a - 0.1, "high": a + 0.05} for e, a in ((0.0, 0.9), (1.0, 0.5), (2.0, 0.2))]
    found = {
        "split": "test", "rows": 4, "reliable": True, "clean": {"accuracy": 0.9}, "worst_case": curve,
        "attacks": [{"type": "pgd", "norm": "linf", "curve": curve}],
        "per_row": {"label": ["1", "2", "2", "<b>"], "broken_at": [1.0, None, 2.0, 0.0], "distance": [0.4, None, 1.5, None]},
    }  # fmt: skip
    return {**found, **change}


def ids(svg: bytes) -> set[str]:
    return {element.get("id", "") for element in ET.fromstring(svg).iter()}


def texts(svg: bytes) -> str:
    return "\n".join("".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text"))


def drawn(svg: bytes, name: str) -> list[float]:
    """The heights of a line's points."""
    (group,) = (element for element in ET.fromstring(svg).iter() if element.get("id") == name)
    (path,) = (element for element in group.iter(f"{SVG}path") if element.get("clip-path"))
    return [float(line.split()[2]) for line in path.get("d", "").strip().splitlines()]


def test_curves_interval_chance_classes_and_distances() -> None:
    svg = robustness(result())
    assert {"worst-case", "interval", "chance", "classes", "distances"} <= ids(svg)
    assert "reliable" in texts(svg)
    assert "median 0.95" in texts(svg)
    # The layout's last bits differ in one run of two or three.
    assert {robustness(result()) for _ in range(4)} == {svg}, "equal inputs give equal bytes"
    assert len(svg) < 60_000


@pytest.mark.parametrize(("reliable", "said"), [(False, "NOT reliable"), (None, "not all checks ran")])
def test_the_verdict_stands_above(reliable: bool | None, said: str) -> None:
    assert said in texts(robustness(result(reliable=reliable)))


def test_what_is_verified_stands_below_what_attacks_left() -> None:
    curve = [{"epsilon": e, "accuracy": a, "low": a - 0.05, "high": a + 0.05} for e, a in ((0.0, 0.9), (1.0, 0.3), (2.0, 0.05))]
    svg = robustness(result(certified={"norm": "linf", "reason": None, "curve": curve}))
    assert {"verified", "verified-interval", "clean"} <= ids(svg)
    assert "verified, linf" in texts(svg)
    heights = {name: drawn(svg, name) for name in ("worst-case", "verified")}
    (clean,) = set(drawn(svg, "clean"))
    assert clean == heights["worst-case"][0] == heights["verified"][0], "downwards, as SVG counts"
    assert all(above < below for above, below in zip(heights["worst-case"][1:], heights["verified"][1:], strict=True))
    refused = robustness(result(certified={"norm": "linf", "reason": "no intervals", "curve": None}))
    assert refused == robustness(result())


def test_images_before_and_after() -> None:
    before = np.zeros((8, 8), dtype=np.float32)
    after = before.copy()
    after[0, 0] = 2.5
    svg = robustness(result(), [Example(before, after, ("1", "7"))], (0.0, 16.0))
    assert "difference, at most 2.5" in texts(svg)
    assert "7" in texts(svg).split("\n")


def test_errors_and_corruption_alone_have_a_picture() -> None:
    curve = [{"epsilon": e, "rmse": r} for e, r in ((0.0, 1.0), (1.0, 3.0))]
    numbers = result(
        clean={"rmse": 1.0}, worst_case=curve, attacks=[{"type": "fgsm", "norm": "l2", "curve": curve}], per_row={"broken_at": [None]}
    )
    assert "chance" not in ids(robustness(numbers))
    bounded = [{"epsilon": e, "mae": r, "mse": None if r is None else r * r, "rmse": r} for e, r in ((0.0, 1.0), (1.0, 80.0), (2.0, None))]
    shown = robustness({**numbers, "certified": {"norm": "linf", "reason": None, "curve": bounded}})
    assert "verified" in ids(shown)
    assert "8" in texts(shown).split("\n"), "the axis ends at three times the worst error that was found"
    assert "20" not in texts(shown).split("\n")
    severities = [{"severity": s, "accuracy": 0.9 - s / 10, "low": 0.0, "high": 1.0} for s in range(1, 6)]
    alone = result(worst_case=[], attacks=[{"type": "blur", "curve": severities}], per_row={"label": ["1"], "broken_at": [None]})
    assert "blur, severity 3" in texts(robustness(alone))
