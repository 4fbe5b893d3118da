"""How sampled dropout comes near its limit: one over the root of the number of masks, with the right scatter."""

from typing import Any

import numpy as np
import pytest

from service.inference.asking import ask
from service.inference.convergence import SIZES, error_deviation, running_errors
from service.inference.decomposition import member_errors, variance_decomposition
from service.inference.measuring import Inquiry
from service.tricks.modes import Asking

NUMBER = {"task": "regression", "name": "size"}
ROWS = np.arange(40)


def draws(count: int, seed: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Errors [S, N] of draws around a mean error, skewed, and alike among rows as those of one mask are."""
    stream = np.random.default_rng(seed)
    common = (stream.beta(1, 3, (count, 1)) - 0.25) / 0.194
    return mean + common * scale + 0.5 * stream.normal(size=(count, len(mean)))


@pytest.fixture(scope="module")
def limit() -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(7)
    return stream.normal(0.5, 1.0, 30), stream.normal(0.3, 0.4, 30)


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_the_spread_of_the_error_is_the_formulas(limit: tuple[np.ndarray, np.ndarray], size: int) -> None:
    errors = draws(3000, 0, *limit)
    claimed = error_deviation(errors @ errors.T / 30, size)
    many = (draws(20_000 * size, 1, *limit).reshape(20_000, size, 30).mean(1) ** 2).mean(1)
    # The claim is of 3000 skewed draws: a standard error of some hundredths.
    assert claimed == pytest.approx(many.std(), rel=0.08)


def test_the_band_holds_the_error_about_as_often_as_two_deviations(limit: tuple[np.ndarray, np.ndarray]) -> None:
    inside = []
    for seed in range(300):
        rows = running_errors(draws(100, seed, *limit), (1, 5, 20))
        inside.append([row["low"] <= row["measured"] <= row["high"] for row in rows])
    shares = np.mean(inside, axis=0)
    assert (shares > 0.9).all(), shares
    assert (shares < 0.999).any(), shares


def test_what_is_said_of_each_size(limit: tuple[np.ndarray, np.ndarray]) -> None:
    errors = draws(SIZES[-1], 0, *limit)
    rows, found = running_errors(errors), variance_decomposition(errors)
    assert [row["samples"] for row in rows] == list(SIZES)
    for row in rows:
        size = row["samples"]
        assert row["predicted"] == pytest.approx(found["v"] / size + (size - 1) / size * found["c"], rel=1e-12)
        assert row["measured"] == pytest.approx((errors[:size].mean(0) ** 2).mean(), rel=1e-12)
        assert row["predicted_deviation"] == pytest.approx(errors.var(axis=0, ddof=1).mean() ** 0.5 / size**0.5, rel=1e-9)
    assert rows[-1]["measured"] == pytest.approx(rows[-1]["predicted"], rel=1e-9), "the formula's identity, for all draws"
    assert rows[0]["deviation"] == pytest.approx(rows[0]["predicted_deviation"], rel=1e-9)
    assert rows[-1]["deviation"] is None, "one group has no scatter"
    halves = errors.reshape(2, 50, 30).mean(1)
    assert rows[-2]["deviation"] == pytest.approx((((halves[0] - halves[1]) ** 2) / 2).mean() ** 0.5, rel=1e-12)


@pytest.mark.parametrize("target", [None, NUMBER], ids=["classes", "numbers"])
def test_a_network_under_masks_comes_near_the_mean_over_all(bench: Any, target: Any) -> None:
    """Six droppable units: the limit is known. The deviation from it falls as one over the root."""
    model, x = bench.model(*([target] if target else []), hidden=[6], dropout=0.4), bench.inputs(40)
    stream = np.random.default_rng(0)
    material = bench.material(model, x, {"kind": stream.integers(0, 3, 40), "size": stream.normal(5, 3, 40)})
    (described,) = model.spec.targets
    deviations, limits = [], []
    for seed in range(20):
        axes = Asking(mode="monte_carlo", samples=100, seed=seed).axes(model)
        errors = member_errors(ask(model, x, axes, keep=True)[described.name], described, material, ROWS)[1]
        rows = running_errors(errors)
        limits.append(variance_decomposition(errors)["c"])
        deviations.append([row["deviation"] for row in rows[:-1]])
    exact = Inquiry(model, material).measure("test", Asking(mode="exact").axes(model))
    wanted = exact["mse" if target else "brier"]
    assert np.mean(limits) == pytest.approx(wanted, abs=4 * np.std(limits) / 20**0.5)
    slope = np.polyfit(np.log(SIZES[:-1]), np.log(np.square(deviations).mean(0)) / 2, 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)
