"""Augmentation: noise of mean zero and the given spread, on the rows that were chosen."""

from typing import get_args

import pytest
import torch

from service.tricks import augmentation
from service.tricks.augmentation import Augmentation, GaussianNoise

N, FEATURES, STD = 4000, 50, 0.7


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_kind_is_tested_here() -> None:
    kinds = {value for value in vars(augmentation).values() if isinstance(value, type) and "type" in getattr(value, "model_fields", ())}
    assert kinds == {GaussianNoise}
    assert get_args(Augmentation)[0] is GaussianNoise


def test_noise_has_mean_zero_and_the_given_spread() -> None:
    x = torch.linspace(-3, 3, FEATURES).expand(N, FEATURES)
    noise = GaussianNoise(std=STD)(x, stream()).double() - x.double()
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 * STD / count**0.5
    assert abs(float(noise.var()) - STD**2) < 4 * STD**2 * (2 / count) ** 0.5
    # Independent per entry and row: a mean of correlations of neighbours is N(0, 1 / count).
    for axis in (0, 1):
        assert abs(float((noise * noise.roll(1, axis)).mean()) / STD**2) < 4 / count**0.5


def test_expected_output_is_the_input() -> None:
    x = torch.tensor([[1.0, -2.0, 5.0]])
    mean = GaussianNoise(std=STD)(x.expand(40_000, 3), stream()).double().mean(0)
    assert float((mean - x[0]).abs().max()) < 4 * STD / 40_000**0.5


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_rows_are_chosen_with_the_probability(probability: float) -> None:
    x = torch.zeros(N, 2, 3)
    moved = (GaussianNoise(std=1.0, probability=probability)(x, stream()) != 0).flatten(1)
    assert torch.equal(moved.any(1), moved.all(1)), "a row is changed as a whole or not at all"
    share = float(moved.any(1).double().mean())
    assert abs(share - probability) <= 4 * (probability * (1 - probability) / N) ** 0.5


def test_the_stream_decides_and_the_rows_are_left_alone() -> None:
    x = torch.randn(20, 3, generator=stream(5))
    before = x.clone()
    first = GaussianNoise(std=STD)(x, stream())
    assert torch.equal(x, before)
    assert torch.equal(first, GaussianNoise(std=STD)(x, stream()))
    assert not torch.equal(first, GaussianNoise(std=STD)(x, stream(1)))


def test_no_noise_is_the_identity() -> None:
    x = torch.randn(20, 3, generator=stream())
    assert torch.equal(GaussianNoise(std=0.0)(x, stream()), x)
