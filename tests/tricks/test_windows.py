"""What the square attack fills images with: pyramids by the paper's equation, windows within the image, lengths that are kept."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from service.tricks.attacks import Box, Square
from service.tricks.draws import Common
from service.tricks.windows import Windows, pair, pyramid, tiles
from tests.tricks.test_attacks import Linear

SHAPES = [(20, 9, 9), (20, 8, 11), (20, 12, 7, 3), (20, 5, 1), (20, 2, 3)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int = 0) -> Common:
    return Common(generator(seed))


def by_the_equation(height: int, width: int) -> Tensor:
    """Equation 2 of the paper as it stands, counting rows r and columns s from 1."""
    n = max(height, width) // 2
    found = torch.zeros(height, width, dtype=torch.float64)
    for r in range(1, height + 1):
        for s in range(1, width + 1):
            most = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
            found[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(most + 1))
    return found


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (2, 5), (3, 3), (4, 9), (5, 5), (6, 4)])
def test_pyramids_are_those_of_the_paper(height: int, width: int) -> None:
    torch.testing.assert_close(pyramid(height, width), by_the_equation(height, width))
    upright, lying = pair(height, width)
    for pattern in (upright, lying):
        assert pattern.shape == (height, width)
        assert float(pattern.norm()) == pytest.approx(1)
    assert bool((upright[: height // 2] > 0).all() and (upright[height // 2 :] < 0).all())
    assert bool((lying[:, : width // 2] > 0).all() and (lying[:, width // 2 :] < 0).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pyramids", [False, True])
@pytest.mark.parametrize("covered", [0.8, 0.2, 0.001])
def test_windows_lie_within_the_image_and_pyramids_within_windows(shape: tuple[int, ...], pyramids: bool, covered: float) -> None:
    like = torch.zeros(shape)
    found = Windows.drawn(like, covered, draws(), pyramids=pyramids)
    inside = found.inside().expand(shape)
    assert bool((inside.flatten(1).sum(1) == found.sides[0] * found.sides[1] * like[0, 0, 0].numel()).all())
    filled = found.pyramids(draws()).expand(shape)
    assert torch.equal(filled != 0, inside)
    torch.testing.assert_close(filled.flatten(1).norm(dim=1), torch.full((20,), like[0, 0, 0].numel() ** 0.5))


def test_windows_and_turns_are_drawn_for_each_row() -> None:
    like = torch.zeros(400, 6, 6)
    found = Windows.drawn(like, 0.25, draws())
    assert set(found.first[0].tolist()) == set(found.first[1].tolist()) == set(range(4))
    assert len(found.pyramids(draws(1)).unique(dim=0)) == 4 * 4 * 2


def test_tiles_fill_an_image_with_pairs_of_equal_length() -> None:
    found = tiles(torch.zeros(50, 28, 30, 2, dtype=torch.float64), draws())
    assert bool((found[:, 1:26, :30] != 0).all())
    assert not bool(found[:, [0, 26, 27]].any()), "five tiles of five pixels, in the middle"
    each = found[:, 1:26].unfold(1, 5, 5).unfold(2, 5, 5)
    torch.testing.assert_close(each.square().sum((-2, -1)), torch.ones(50, 5, 6, 2, dtype=torch.float64))
    assert len({tuple(tile.flatten().tolist()) for tile in each.flatten(0, 3)}) == 4, "two ways to lie, two signs"


def window(shape: tuple[int, ...]) -> int:
    """Entries of a window that covers a tenth."""
    if len(shape) < 3:
        return round(0.1 * shape[1])
    sides = Windows.drawn(torch.zeros(shape), 0.1, draws(), pyramids=True).sides
    return sides[0] * sides[1] * (shape[3] if len(shape) > 3 else 1)


@pytest.mark.parametrize("shape", [*SHAPES, (20, 30)])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_proposal_fills_the_ball_and_changes_two_windows(shape: tuple[int, ...], norm: Any) -> None:
    attack, draw = Square(epsilon=0.7, norm=norm), draws()
    delta = torch.randn(shape, generator=generator(), dtype=torch.float64)
    for length in (0.7, 0.4, 0.0):
        before = attack.ball.project(attack.stretched(delta), length)
        moved = attack._proposal(before, 0.1, draw, Box())
        torch.testing.assert_close(attack.ball.length(moved), torch.full((20,), 0.7, dtype=torch.float64))
        changed = ((moved - before).abs() > 1e-12).flatten(1).sum(1)
        assert bool((changed <= 2 * window(shape)).all())


def test_a_window_gets_what_the_paper_gives_it() -> None:
    """Algorithm 3, row by row and channel by channel: rest and window are as they were, but for lengths, which the ball ends at 1."""
    draw = draws()
    delta = torch.randn((10, 9, 8, 3), generator=generator(), dtype=torch.float64) / 40
    place, second = (Windows.drawn(delta, 0.15, draw, pyramids=True) for _ in range(2))
    pattern, both = place.pyramids(draw).expand(delta.shape), (place.inside() | second.inside()).expand(delta.shape)
    found = Square(epsilon=1.0, norm="l2")._relocated(delta, place.inside(), place.inside() | second.inside(), pattern)
    for n in range(10):
        for c in range(3):
            old, eta, inside = delta[n, :, :, c], pattern[n, :, :, c], one_window(place, n)
            new = (eta / eta.norm() + old * inside / (old * inside).norm()) * inside
            share = (old * both[n, :, :, c]).square().sum() + max(0.0, 1 - float(delta[n].square().sum())) / 3
            expected = old * ~both[n, :, :, c] + new / new.norm() * share.sqrt()
            torch.testing.assert_close(found[n, :, :, c], expected)


def one_window(place: Windows, n: int) -> Tensor:
    """The pixels of one window, by its corner."""
    inside, (top, left) = torch.zeros(place.like.shape[1:3], dtype=torch.bool), (int(first[n]) for first in place.first)
    inside[top : top + place.sides[0], left : left + place.sides[1]] = True
    return inside


@dataclass(frozen=True)
class Pictured(Linear):
    """A linear margin of images."""

    def output(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight + self.bias

    def only(self, chosen: Tensor) -> "Pictured":
        return replace(self, signs=self.signs[chosen])


def test_square_finds_smooth_directions_of_images_in_l2() -> None:
    """More than half of what the ball allows, where a random direction finds a twelfth in 144 dimensions, and never more than that."""
    x = torch.rand(60, 12, 12, generator=generator(), dtype=torch.float64)
    wave = torch.sin(torch.arange(12, dtype=torch.float64) / 2)
    loss = Pictured((wave[:, None] * wave.roll(3)[None]).flatten(), torch.ones(60, dtype=torch.float64), 1e6)
    moved = Square(epsilon=1.0, norm="l2", queries=300)(x, loss, Box()).inputs
    gained = (loss.margin(x) - loss.margin(moved)) / loss.weight.norm()
    assert bool((gained <= 1 + 1e-6).all())
    assert float(gained.mean()) > 0.5
