"""DeepFool within bounds: the way its authors go, and the shortest one to a plane."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from service.tricks.attacks import FAB, Box, DeepFool
from service.tricks.norms import NORMS
from tests.tricks.test_attacks import linear, rows
from tests.tricks.test_strong_attacks import Several


def by_the_letter(x: Tensor, scores: Any, norm: str, low: float, high: float) -> Tensor:
    """DeepFool of one row as its authors run it: all steps from the row together, a hundredth of a percent longer each, then clipped."""
    moved, gone, right = x, torch.zeros_like(x), int(scores(x).argmax())
    while int(scores(moved).argmax()) == right:
        leaf = moved.clone().requires_grad_(True)
        jacobian, found = torch.autograd.functional.jacobian(scores, leaf), scores(moved)
        ways = []
        for rival in set(range(len(found))) - {right}:
            slope, lead = jacobian[rival] - jacobian[right], abs(found[rival] - found[right])
            size = lead / (slope.abs().sum() if norm == "linf" else slope.norm())
            ways.append((float(size), slope.sign() if norm == "linf" else slope / slope.norm()))
        size, way = min(ways, key=lambda each: each[0])
        gone = gone + (size + 1e-4 * float((moved - x).abs().max() if norm == "linf" else (moved - x).norm())) * way
        moved = (x + 1.02 * gone).clamp(low, high)
    return moved


@dataclass(frozen=True)
class Curved(Several):
    """Several behind a layer of rectified units."""

    hidden: Tensor = field(default_factory=lambda: torch.eye(1))

    def scores(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.hidden) @ self.weight

    def broken(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1) != self.right


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_within_bounds_deepfool_goes_the_way_of_its_authors(norm: Any) -> None:
    x = rows(7, 40).double().clamp(-1, 1)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((6, 20), (20, 5)))
    loss = Curved(weight, torch.zeros(40), hidden=hidden)
    loss = replace(loss, right=loss.scores(x).argmax(1))
    found = DeepFool(epsilon=1e30, norm=norm, steps=1000)(x, loss, Box(torch.tensor(-1.0), torch.tensor(1.0))).inputs
    for row, moved in zip(x, found, strict=True):
        expected = by_the_letter(row, lambda at: torch.relu(at @ hidden) @ weight, norm, -1.0, 1.0)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_within_bounds_clipped_steps_end_at_the_nearest_point_of_a_plane(norm: Any) -> None:
    """What is beyond the bounds is owed: all steps together, clipped, are the shortest way within them."""
    x = rows(6, 60).double().clamp(-0.9, 0.9)
    loss, box = linear(x), Box(torch.tensor(-1.0), torch.tensor(1.0))
    fab, found = (kind(epsilon=1e30, norm=norm)(x, loss, box).distances for kind in (FAB, DeepFool))
    crossed = fab.isfinite()
    assert torch.equal(found.isfinite(), crossed)
    assert bool((found >= (1 - 1e-6) * fab)[crossed].all())
    assert bool((found <= 1.03 * fab + 1e-9)[crossed].all())
