"""Everyday corruption: what each kind does to an image, and that severity is severity."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from service.tricks.attacks import Attack, Box, Corruption
from service.tricks.corruption import SEVERITIES, Blur, Brightness, Contrast, Occlusion, Shift

KINDS = [kind for kind in get_args(get_args(Attack)[0]) if issubclass(kind, Corruption)]
SIDE = 20


def images(n: int = 30, *, color: bool = False) -> Tensor:
    shape = (n, SIDE, SIDE, 3) if color else (n, SIDE, SIDE)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 10


def box(x: Tensor) -> Box:
    count = x[0].numel()
    return Box(torch.tensor(0.0), torch.tensor(10.0), blank=torch.zeros(x.shape[1:]), fields=torch.arange(count).view(x.shape[1:]))


def corrupted(kind: Any, severity: int, x: Tensor, seed: int = 0) -> Tensor:
    return kind(severity=severity, seed=seed)(x, None, box(x)).inputs


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_severity_is_severity_and_bounds_hold(kind: Any, color: bool) -> None:
    x = images(color=color)
    before = x.clone()
    changes = []
    for severity in SEVERITIES:
        moved = corrupted(kind, severity, x)
        assert moved.shape == x.shape
        assert bool(((moved >= 0) & (moved <= 10)).all())
        assert torch.equal(moved, corrupted(kind, severity, x))
        changes.append(float((moved - x).square().mean()))
    assert torch.equal(x, before)
    assert changes[0] > 0
    # A shift of noise changes all of it at once.
    assert kind is Shift or changes == sorted(changes)


def test_blur_keeps_constants_and_the_sum_of_a_point() -> None:
    flat = torch.full((2, SIDE, SIDE), 3.0)
    torch.testing.assert_close(corrupted(Blur, 5, flat), flat)
    point = torch.zeros(1, SIDE, SIDE)
    point[0, 10, 10] = 8.0
    spread = corrupted(Blur, 5, point)
    assert float(spread.sum()) == pytest.approx(8.0, rel=1e-5)
    torch.testing.assert_close(spread, spread.transpose(1, 2))
    sigma = 0.08 * SIDE
    offsets = torch.arange(SIDE, dtype=torch.float32) - 10
    assert float((spread[0].sum(0) / 8 * offsets.square()).sum()) == pytest.approx(sigma**2, rel=0.03)


def test_contrast_and_brightness_are_their_formulas() -> None:
    x = images() * 0.4 + 2
    mean = x.mean((1, 2), keepdim=True)
    torch.testing.assert_close(corrupted(Contrast, 3, x), mean + 0.4 * (x - mean))
    torch.testing.assert_close(corrupted(Brightness, 2, x), (x + 2.0).clamp(max=10.0))


def test_a_shift_moves_whole_pixels_to_a_corner() -> None:
    x = images(200)
    moved = corrupted(Shift, 4, x)  # .16 of 20 are 3.2: four pixels
    found = set()
    for down in (-4, 4):
        for right in (-4, 4):
            rows, columns = slice(max(down, 0), SIDE + min(down, 0)), slice(max(right, 0), SIDE + min(right, 0))
            back, across = slice(max(-down, 0), SIDE + min(-down, 0)), slice(max(-right, 0), SIDE + min(-right, 0))
            same = (moved[:, rows, columns] == x[:, back, across]).flatten(1).all(1)
            found |= set(same.nonzero().squeeze(1).tolist())
            assert int(same.sum()) > 20
    assert len(found) == 200


def test_an_occlusion_is_a_grey_rectangle() -> None:
    x = images(50)
    covered = corrupted(Occlusion, 5, x) == 5.0
    assert bool((covered.sum((1, 2)) == 11 * 11).all()), ".55 of 20"
    assert bool((covered.any(2).sum(1) == 11).all())
