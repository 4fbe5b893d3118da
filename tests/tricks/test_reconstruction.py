"""The error of a reconstruction in normalized units and in the inputs' own, and what constant entries add to it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from service.tricks.normalization import Preprocessing
from service.tricks.reconstruction import Reconstruction, errors
from service.tricks.targets import Given

ROWS = 40
MSE, ORIGINAL = Reconstruction(name="input"), Reconstruction(name="input", loss="mse_original")


def table(seed: int = 0, columns: int = 5) -> NDArray[np.float64]:
    """Columns of very different scales and offsets, the third of them constant."""
    stream = np.random.default_rng(seed)
    x = stream.normal(size=(ROWS, columns)) * 10.0 ** stream.integers(-2, 3, columns) + 3 * stream.normal(size=columns)
    x[:, 2] = 7.25
    return x


class Fitted:
    """Rows, what normalizes them, and a reconstruction's mean and standard deviation, all in float64."""

    def __init__(self, x: NDArray[np.float64], how: Any = "standard") -> None:
        self.x = torch.from_numpy(x)
        self.normalize = Preprocessing(normalize=how).fit(x, np.arange(len(x)), kind="table")
        made = MSE.labelled(Given(None, np.arange(len(x)), x, self.normalize, True))  # type: ignore[arg-type]
        self.mean, self.std = made.mean.double(), made.std.double()
        self.normalize.double()

    def guess(self, seed: int = 1) -> Tensor:
        """What a network might say, normalized."""
        return torch.randn(self.x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def raw(self, target: Reconstruction, guess: Tensor) -> Tensor:
        return target.in_unit(guess, self.std)

    def labels(self, target: Reconstruction) -> Tensor:
        return target.labels(self.normalize(self.x), self.mean, self.std)

    def loss(self, target: Reconstruction, guess: Tensor) -> Tensor:
        return target.losses(self.raw(target, guess), self.labels(target)).mean()

    def said(self, target: Reconstruction, guess: Tensor) -> Tensor:
        found = target.read(self.raw(target, guess), self.mean, self.std).mean
        assert found is not None
        return found


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), how=st.sampled_from(["standard", "minmax", "none"]))
def test_the_original_error_is_the_norm_weighted_by_the_scales(seed: int, how: Any) -> None:
    fitted = Fitted(table(seed), how)
    guess, z = fitted.guess(seed), fitted.normalize(fitted.x)
    weighted = (fitted.std * (z - guess)).square().mean()
    assert float(fitted.loss(ORIGINAL, guess)) == pytest.approx(float(weighted), rel=1e-12)
    plain = (fitted.said(ORIGINAL, guess) - fitted.x).square().mean()
    assert float(plain) == pytest.approx(float(weighted), rel=1e-6), "float64 rows, float32 mean and scale"
    normalized, original = errors(fitted.said(MSE, guess), fitted.x, fitted.std)
    assert float(original.mean()) == pytest.approx(float(weighted), rel=1e-6)
    assert float(normalized.mean()) == pytest.approx(float(fitted.loss(MSE, guess)), rel=1e-6)


def test_a_change_of_unit_multiplies_that_features_part_alone() -> None:
    x = table()
    scaled = x.copy()
    scaled[:, 3] *= 1024.0
    first, second = Fitted(x), Fitted(scaled)
    guess = first.guess()
    assert float(second.loss(MSE, guess)) == pytest.approx(float(first.loss(MSE, guess)), rel=1e-6)
    parts = [(each.raw(ORIGINAL, guess) - each.labels(ORIGINAL)).square().mean(0) for each in (first, second)]
    torch.testing.assert_close(parts[1][3], parts[0][3] * 1024.0**2, rtol=1e-6, atol=0)
    others = [0, 1, 2, 4]
    assert torch.equal(parts[1][others], parts[0][others])


@pytest.mark.parametrize("target", [MSE, ORIGINAL], ids=lambda target: target.loss)
@pytest.mark.parametrize("how", ["standard", "minmax"])
def test_a_constant_entry_adds_nothing_in_training_and_its_deviation_later(target: Reconstruction, how: Any) -> None:
    fitted = Fitted(table(), how)
    guess = fitted.guess().requires_grad_()
    part = (fitted.raw(target, guess) - fitted.labels(target))[:, 2]
    assert torch.equal(part, torch.zeros(ROWS, dtype=torch.float64)), "exactly, whatever the network says"
    fitted.loss(target, guess).backward()
    assert torch.equal(guess.grad[:, 2], torch.zeros(ROWS, dtype=torch.float64))
    assert bool((guess.grad[:, [0, 1, 3, 4]] != 0).all())
    assert torch.equal(fitted.said(target, guess)[:, 2], torch.full((ROWS,), 7.25, dtype=torch.float64))
    fitted.x[4, 2] += 3.0
    guess = guess.detach()
    part = (fitted.raw(target, guess) - fitted.labels(target))[:, 2].square()
    assert float(part[4]) == 9.0
    normalized, original = errors(fitted.said(target, guess), fitted.x, fitted.std)
    before = errors(fitted.said(target, guess)[:, [0, 1, 3, 4]], fitted.x[:, [0, 1, 3, 4]], fitted.std[[0, 1, 3, 4]])
    for own, others in zip((normalized, original), before, strict=True):
        assert float(5 * own[4] - 4 * others[4]) == pytest.approx(9.0, rel=1e-6)


def test_rounding_of_a_nearly_constant_entry_adds_nothing() -> None:
    x = table()
    x[:, 2] = 1e6 + np.tile([0.0, 0.0625], ROWS // 2)
    fitted = Fitted(x.astype(np.float32).astype(np.float64))
    assert float(fitted.std[2]) == 0.0
    for target in (MSE, ORIGINAL):
        assert torch.equal(fitted.labels(target)[:, 2], torch.zeros(ROWS, dtype=torch.float64))
    said = fitted.said(MSE, fitted.guess())
    others = [0, 1, 3, 4]
    for whole, rest in zip(
        errors(said, fitted.x, fitted.std), errors(said[:, others], fitted.x[:, others], fitted.std[others]), strict=True
    ):
        torch.testing.assert_close(5 * whole, 4 * rest, rtol=1e-12, atol=0)


@pytest.mark.parametrize("target", [MSE, ORIGINAL], ids=lambda target: target.loss)
def test_quick_scores_are_both_errors_whichever_is_trained(target: Reconstruction) -> None:
    fitted = Fitted(table())
    guess = fitted.guess()
    scores = target.scores(fitted.raw(target, guess), fitted.labels(target), fitted.std)
    normalized, original = errors(fitted.said(target, guess), fitted.x, fitted.std)
    torch.testing.assert_close(scores["normalized"], normalized, rtol=1e-6, atol=0)
    torch.testing.assert_close(scores["original"], original, rtol=1e-6, atol=0)
    assert torch.equal(scores["loss"], scores["original" if target.loss == "mse_original" else "normalized"])
    assert set(target.scored) == set(scores)
    found = target.means({name: float(values.sum()) for name, values in scores.items()}, ROWS)
    assert found["error_original"] == pytest.approx(float(original.mean()), rel=1e-6)
    assert tuple(found) == target.quick


def test_the_mean_of_a_row_is_an_error_of_one() -> None:
    fitted = Fitted(table()[:, [0, 1, 3, 4]])
    assert float(fitted.loss(MSE, torch.zeros_like(fitted.x))) == pytest.approx(1.0, rel=1e-5)


def test_no_label_is_missing_and_none_is_kept() -> None:
    x = np.zeros((6, 2, 3), dtype=np.float32)
    made = MSE.labelled(Given(None, np.arange(6), x, Preprocessing().fit(x, np.arange(6), kind="tensor"), True))  # type: ignore[arg-type]
    assert made.labels.numel() == 0
    assert len(made.labels) == 6
    assert (made.width, made.mean.shape, made.std.shape) == (6, (6,), (6,))
    assert not MSE.missing(torch.zeros(4, 6, 2)).any()
