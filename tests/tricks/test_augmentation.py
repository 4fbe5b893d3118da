"""Augmentation: noise of mean zero and the given spread, on the rows and columns that it belongs to, and lists in their order."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from service.tricks.augmentation import Augmentation, GaussianNoise
from service.tricks.augmenting import Augmented
from service.tricks.geometry import Cutout, Flip, Rotate, Scale, Translate
from service.tricks.mixing import CutMix, Mixup
from service.tricks.streams import Draws, row_keys

N, FEATURES, STD = 4000, 50, 0.7


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(row_keys([seed], np.arange(count)[None], epoch=0, place=0))


def test_every_kind_is_tested_in_its_file() -> None:
    """Geometry and mixing have files of their own."""
    tested = {GaussianNoise, Translate, Rotate, Scale, Flip, Cutout, Mixup, CutMix}
    assert set(get_args(get_args(Augmentation)[0])) == tested


def test_noise_has_mean_zero_and_the_given_spread() -> None:
    x = torch.linspace(-3, 3, FEATURES).expand(N, FEATURES)
    noise = GaussianNoise(std=STD)(x, draws(N)).double() - x.double()
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 * STD / count**0.5
    assert abs(float(noise.var()) - STD**2) < 4 * STD**2 * (2 / count) ** 0.5
    # Independent per entry and row: a mean of correlations of neighbours is N(0, 1 / count).
    for axis in (0, 1):
        assert abs(float((noise * noise.roll(1, axis)).mean()) / STD**2) < 4 / count**0.5


def test_expected_output_is_the_input() -> None:
    x = torch.tensor([[1.0, -2.0, 5.0]])
    mean = GaussianNoise(std=STD)(x.expand(40_000, 3), draws(40_000)).double().mean(0)
    assert float((mean - x[0]).abs().max()) < 4 * STD / 40_000**0.5


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_rows_are_chosen_with_the_probability(probability: float) -> None:
    x = torch.zeros(N, 2, 3)
    moved = (GaussianNoise(std=1.0, probability=probability)(x, draws(N)) != 0).flatten(1)
    assert torch.equal(moved.any(1), moved.all(1)), "a row is changed as a whole or not at all"
    share = float(moved.any(1).double().mean())
    assert abs(share - probability) <= 4 * (probability * (1 - probability) / N) ** 0.5


def test_the_stream_decides_and_the_rows_are_left_alone() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    before = x.clone()
    first = GaussianNoise(std=STD)(x, draws(20))
    assert torch.equal(x, before)
    assert torch.equal(first, GaussianNoise(std=STD)(x, draws(20)))
    assert not torch.equal(first, GaussianNoise(std=STD)(x, draws(20, seed=1)))


def test_no_noise_is_the_identity() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(GaussianNoise(std=0.0)(x, draws(20)), x)


def test_categories_and_indicators_get_no_noise() -> None:
    x = torch.cat([torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.eye(3).repeat(10, 1)], 1)
    moved, _ = Augmented((GaussianNoise(std=1.0),), (0,), classes={}, plain=3)(x, {}, torch.arange(30), epoch=0)
    assert torch.equal(moved[:, 2:], x[:, 2:])
    assert (moved[:, :2] != x[:, :2]).all()


LISTS: list[tuple[Any, ...]] = [
    (GaussianNoise(std=1.0), GaussianNoise(std=1.0)),
    (Rotate(degrees=20.0), Translate(pixels=2), GaussianNoise(std=0.1, probability=0.5)),
    (Scale(), Flip(axis="horizontal", probability=0.5), Cutout(size=3)),
]


def seen(transforms: tuple[Any, ...], x: Tensor, rows: Tensor, *, epoch: int = 0, seeds: tuple[int, ...] = (7,)) -> Tensor:
    return Augmented(transforms, seeds, classes={})(x, {}, rows, epoch=epoch)[0]


@pytest.mark.parametrize("transforms", LISTS, ids=lambda each: "-".join(one.type for one in each))
def test_a_row_in_an_epoch_is_what_it_is_whatever_the_batch(transforms: tuple[Any, ...]) -> None:
    x = torch.randint(0, 256, (50, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.randperm(10_000, generator=torch.Generator().manual_seed(1))[:50]
    whole = seen(transforms, x, rows)
    for chosen in (torch.arange(50).flip(0), torch.tensor([3, 3, 41]), torch.tensor([17])):
        assert torch.equal(seen(transforms, x[chosen], rows[chosen]), whole[chosen])
    beside = seen(transforms, torch.stack([x, x]), torch.stack([rows, rows.flip(0)]), seeds=(7, 8))
    assert torch.equal(beside[0], whole)
    for other in (seen(transforms, x, rows, epoch=1), seen(transforms, x, rows + 1), seen(transforms, x, rows, seeds=(8,)), beside[1]):
        assert not torch.equal(other, whole)
    assert x.dtype == torch.uint8


def test_a_list_is_applied_in_its_order_each_with_numbers_of_its_own() -> None:
    x, rows = torch.rand(9, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    noise = GaussianNoise(std=1.0)
    twice = seen((noise, noise), x, rows)
    first = seen((noise,), x, rows)
    assert not torch.equal(twice - first, first - x), "not the same numbers twice"
    cut, turn = Cutout(size=4), Rotate(degrees=40.0)
    by_hand = turn(
        cut(x, Draws(row_keys([7], rows[None].numpy(), epoch=2, place=0))), Draws(row_keys([7], rows[None].numpy(), epoch=2, place=1))
    )
    assert torch.equal(seen((cut, turn), x, rows, epoch=2), by_hand)
    assert not torch.equal(seen((turn, cut), x, rows, epoch=2), by_hand)
