"""Balls within boxes, and rows that leave them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.tricks.norms import NORMS
from service.tricks.perturbation import Box
from service.tricks.reach import Round, Survivors, reach


@settings(deadline=None, max_examples=60)
@given(broken=st.lists(st.booleans(), min_size=0, max_size=12))
def test_survivors_are_all_that_is_not_broken_and_stay_together(broken: list[bool]) -> None:
    fell = torch.tensor(broken, dtype=torch.bool)
    standing, numbers = Survivors(fell), torch.arange(len(broken))
    rows = torch.stack([numbers, -numbers], dim=1).double()
    kept, first = standing.of(rows), standing.of(numbers)
    assert sorted(first.tolist()) == [i for i, each in enumerate(broken) if not each]
    assert torch.equal(first, standing.places)
    assert torch.equal(kept, torch.stack([first, -first], dim=1).double())


def test_two_names_of_one_tensor_lose_the_same_rows() -> None:
    fell, rows = torch.tensor([True, False, True, False, False]), torch.arange(5.0)
    standing, other = Survivors(fell), rows
    assert torch.equal(standing.of(rows), standing.of(other))
    assert sorted(other[: standing.count].tolist()) == [1.0, 3.0, 4.0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("outside", [False, True])
def test_walls_are_the_ball_then_the_box(norm: Any, outside: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, moved, slope = (torch.randn(50, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    box = Box(torch.tensor(-1.0), torch.tensor(1.0), torch.tensor([1.0, 1, 0, 1, 1, 1]))
    x, size = x if outside else x.clamp(-1, 1), torch.tensor(0.7, dtype=torch.float64)
    ball = NORMS[norm]
    found, plain = reach(x, ball, 0.4, box), Round(x, ball, 0.4, box)
    torch.testing.assert_close(found.inside(moved), plain.inside(moved), rtol=0, atol=1e-12)
    for start in (x, plain.inside(moved)):
        torch.testing.assert_close(found.ahead(start, slope.clone(), size), plain.ahead(start, slope, size), rtol=0, atol=1e-12)
    fell = torch.arange(50) % 3 == 0
    standing = Survivors(fell)
    kept = standing.of(moved.clone())
    expected = plain.inside(moved)[standing.places]
    torch.testing.assert_close(reach(x.clone(), ball, 0.4, box).only(standing).inside(kept), expected, rtol=0, atol=1e-12)
