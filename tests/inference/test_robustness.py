"""Curves and intervals: what linear models must lose to an attack, and how shards add up."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from service.inference.asking import ask
from service.inference.curves import curve, piece
from service.inference.model import Model
from service.inference.robustness import Subject
from service.inference.robustness_result import accuracy, combine, interval
from service.tricks.attacks import FGSM, PGD, Ladder, UniformNoise
from service.tricks.modes import Asking

NUMBER = {"task": "regression", "name": "size"}
EPSILONS = (0.0, 0.1, 0.3, 1.0)


@settings(deadline=None, max_examples=200)
@given(rows=st.integers(1, 2000), share=st.floats(0, 1), level=st.sampled_from([0.9, 0.95, 0.999]))
def test_the_interval_is_that_of_clopper_and_pearson(rows: int, share: float, level: float) -> None:
    right, tail = round(share * rows), (1 - level) / 2
    low, high = interval(right, rows, level)
    assert low == pytest.approx(stats.beta.ppf(tail, right, rows - right + 1) if right else 0.0, rel=1e-9)
    assert high == pytest.approx(stats.beta.ppf(1 - tail, right + 1, rows - right) if right < rows else 1.0, rel=1e-9)
    # By definition the binomial tails beyond the count are as large as was asked for.
    if right:
        assert stats.binom.sf(right - 1, rows, low) == pytest.approx(tail, rel=1e-6)
    if right < rows:
        assert stats.binom.cdf(right, rows, high) == pytest.approx(tail, rel=1e-6)
    assert low <= right / rows <= high


def test_the_ends_of_the_scale() -> None:
    assert interval(20, 20) == (pytest.approx(0.025 ** (1 / 20), rel=1e-12), 1.0)
    assert interval(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12))
    bounds = [interval(right, 50) for right in range(51)]
    assert bounds == sorted(bounds)
    assert accuracy(np.array([True, True, False])) == {
        "accuracy": pytest.approx(2 / 3),
        "low": pytest.approx(0.0943, abs=1e-4),
        "high": pytest.approx(0.9916, abs=1e-4),
    }


def binary(bench: Any, scale: float = 1.0) -> tuple[Model, Tensor, float]:
    """A linear model whose third class never wins, the weight of its margin in raw units, and the bias."""
    model = bench.double(bench.model())
    head = model.networks[0].heads[0]
    with torch.no_grad():
        head.weight.mul_(scale)
        head.bias[2] = -1e9
        # Normalized inputs are (x - 0.5) / 2.
        weight = (head.weight[0] - head.weight[1]) / 2
        bias = float(head.bias[0] - head.bias[1] - (weight * 0.5).sum())
    return model, weight, bias


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_leaves_the_margin_less_epsilon_times_the_dual_norm(bench: Any, norm: Any) -> None:
    model, weight, bias = binary(bench)
    x = bench.inputs(200).double()
    found = bench.subject(model, x)
    margin = (x @ weight + bias).abs()
    dual = float(weight.abs().sum() if norm == "linf" else weight.norm())
    for epsilon in (0.05, 0.2, 0.5):
        moved, standing, flat, *_ = found.attack(FGSM(epsilon=epsilon, norm=norm, bounds=None))
        sign = torch.where(found.labels == 0, 1.0, -1.0)
        torch.testing.assert_close(sign * (moved @ weight + bias), margin - epsilon * dual, rtol=0, atol=1e-12)
        assert torch.equal(standing, margin > epsilon * dual)
        assert 0 < int(standing.sum()) < 200
        assert not bool(flat.any())
        # No perturbation of that size does more, so that many steps do no better, and hardly worse.
        steps = found.attack(PGD(epsilon=epsilon, norm=norm, bounds=None, steps=20, restarts=2))[1]
        assert not bool((standing & ~steps).any())
        assert int((steps & ~standing).sum()) <= 2


def test_fgsm_on_a_linear_regression_adds_epsilon_times_the_dual_norm(bench: Any) -> None:
    model, x = bench.double(bench.model(NUMBER)), bench.inputs(30).double()
    # Inputs are halved, the target doubled.
    weight = model.networks[0].heads[0].weight[0]
    mean = ask(model, x, Asking().axes(model))["size"].mean
    labels = mean + torch.linspace(-3, 3, 30, dtype=torch.float64).unsqueeze(1) + 0.01
    found = Subject(model, Asking().axes(model), x, labels)
    moved, standing, *_ = found.attack(FGSM(epsilon=0.2, bounds=None))
    errors = torch.tensor(found.errors(moved), dtype=torch.float64).sqrt()
    torch.testing.assert_close(errors, (mean - labels).abs().squeeze(1) + 0.2 * weight.abs().sum(), rtol=1e-9, atol=1e-9)
    assert bool(standing.all()), "a number is never broken"


def test_the_curve_of_a_linear_model_is_that_of_its_margins(bench: Any) -> None:
    model, weight, bias = binary(bench)
    x = bench.inputs(200).double()
    labels = bench.subject(model, x).labels.clone()
    labels[:20] = 1 - labels[:20]
    found = bench.subject(model, x, labels)
    attacks = (FGSM(epsilon=0.0, bounds=None), PGD(epsilon=0.0, bounds=None, steps=5), UniformNoise(epsilon=0.0, bounds=None))
    result = combine([piece(found, attacks, EPSILONS)], attacks, EPSILONS)
    margin = (x @ weight + bias).abs().numpy()
    right = np.arange(200) >= 20
    expected = [float((right & (margin > epsilon * float(weight.abs().sum()))).mean()) for epsilon in EPSILONS]
    for shown in result["attacks"][:2]:
        assert [point["accuracy"] for point in shown["curve"]] == pytest.approx(expected)
    assert [point["accuracy"] for point in result["worst_case"]] == pytest.approx(expected)
    assert result["clean"] == accuracy(right) == {key: result["worst_case"][0][key] for key in ("accuracy", "low", "high")}
    noise = [point["accuracy"] for point in result["attacks"][2]["curve"]]
    assert noise[0] == expected[0]
    assert all(a >= b for a, b in zip(noise, expected, strict=True))
    assert noise[2] > expected[2]
    for row in range(200):
        fell = [epsilon for epsilon in EPSILONS if not (right[row] and margin[row] > epsilon * float(weight.abs().sum()))]
        assert result["per_row"]["broken_at"][row] == (fell[0] if fell else None)
    for shown in result["attacks"]:
        for point in shown["curve"]:
            assert (point["low"], point["high"]) == interval(round(point["accuracy"] * 200), 200)
            assert point["largest"] <= point["epsilon"] * (1 + 1e-12) + 1e-15


def test_shards_add_up_to_the_whole(bench: Any) -> None:
    """Attacks without noise answer row by row, wherever a row lies."""
    model, x = bench.model(hidden=[5], size=2), bench.inputs(60)
    labels = torch.arange(60) % 3
    attacks = (FGSM(epsilon=0.0), PGD(epsilon=0.0, steps=5, random_start=False, loss="margin"))
    whole = combine([piece(bench.subject(model, x, labels), attacks, EPSILONS)], attacks, EPSILONS)
    pieces = [piece(bench.subject(model, x[rows], labels[rows]), attacks, EPSILONS) for rows in (slice(0, 7), slice(7, 40), slice(40, 60))]
    parts = combine(pieces, attacks, EPSILONS)
    assert parts["per_row"] == whole["per_row"]
    assert parts["clean"] == whole["clean"]
    assert parts["worst_case"] == whole["worst_case"]
    for one, other in zip(parts["attacks"], whole["attacks"], strict=True):
        assert [point["accuracy"] for point in one["curve"]] == [point["accuracy"] for point in other["curve"]]


def test_a_shard_without_a_right_row_climbs_no_ladder(bench: Any) -> None:
    model, x = bench.model(hidden=[5]), bench.inputs(20)
    answer = Subject(model, Asking().axes(model), x, torch.zeros(20, dtype=torch.int64)).clean.prediction
    attacks, wrong = (Ladder(epsilon=0.0, steps=2, queries=3),), (answer + 1) % 3
    pieces = [
        piece(bench.subject(model, x[:10], wrong[:10]), attacks, (0.5,)),
        piece(bench.subject(model, x[10:], answer[10:]), attacks, (0.5,)),
    ]
    for order in (pieces, pieces[::-1]):
        (point,) = combine(order, attacks, (0.5,))["attacks"][0]["curve"]
        assert 0 <= min(point["rungs"].values()) <= max(point["rungs"].values()) <= 0.5


def test_a_perturbation_whose_square_overflows_has_a_size(bench: Any) -> None:
    model, x = bench.model(hidden=[5]), bench.inputs(20)
    attacks = (PGD(epsilon=0.0, steps=2, norm="l2", bounds=None),)
    found = piece(bench.subject(model, x, torch.arange(20) % 3), attacks, (1e20,))
    assert json.loads(json.dumps(found, allow_nan=False)) is not None


def test_the_worst_case_is_per_row_over_attacks_and_smaller_epsilons() -> None:
    """Three rows: one never falls, one falls to the first attack at .1 alone, one was wrong before."""

    def points(*standing: list[bool]) -> list[dict[str, Any]]:
        return [{"epsilon": e, "standing": s, "largest": e, "flat": None} for e, s in zip((0.1, 0.2), standing, strict=True)]

    attacks = (FGSM(epsilon=0.0), UniformNoise(epsilon=0.0))
    shard = {
        "right": [True, True, False],
        "errors": None,
        "curves": [points([True, False, False], [True, True, False]), points([True, True, False], [True, True, False])],
    }
    found = combine([shard], attacks, (0.1, 0.2))
    assert [point["accuracy"] for point in found["attacks"][0]["curve"]] == pytest.approx([1 / 3, 2 / 3])
    assert [point["accuracy"] for point in found["worst_case"]] == pytest.approx([1 / 3, 1 / 3])
    assert found["per_row"]["broken_at"] == [None, 0.1, 0.1]


def test_errors_of_numbers_rise_with_epsilon(bench: Any) -> None:
    model, x = bench.model(NUMBER, hidden=[5]), bench.inputs(30)
    labels = torch.linspace(0, 9, 30).unsqueeze(1)
    found = Subject(model, Asking().axes(model), x, labels)
    attacks = (FGSM(epsilon=0.0), PGD(epsilon=0.0, steps=5))
    result = combine([piece(found, attacks, EPSILONS)], attacks, EPSILONS)
    worst = [point["rmse"] for point in result["worst_case"]]
    assert worst[0] == pytest.approx(result["clean"]["rmse"]) == pytest.approx(float(np.sqrt(np.mean(found.errors(x)))))
    assert worst == sorted(worst)
    assert worst[-1] > worst[0]
    assert all(point["rmse"] <= worst[i] + 1e-12 for shown in result["attacks"] for i, point in enumerate(shown["curve"]))


def test_an_ensemble_is_attacked_as_a_whole(bench: Any) -> None:
    """Through its deployed loss it falls at least as often as through one member."""
    model, x = bench.model(hidden=[16], size=5), bench.inputs(300)
    whole = bench.subject(model, x)
    first = bench.subject(replace(model, networks=model.networks[:1]), x, whole.labels)
    moved = first.attack(PGD(epsilon=0.3, steps=10))[0]
    transferred = (ask(model, moved, whole.axes)["kind"].prediction == whole.labels).float().mean()
    standing = whole.attack(PGD(epsilon=0.3, steps=10))[1].float().mean()
    assert standing < transferred - 0.02


def test_largest_and_flat_are_reported(bench: Any) -> None:
    model, x = bench.model(hidden=[5], activation="tanh"), bench.inputs(30)
    points = curve(bench.subject(model, x), FGSM(epsilon=0.0, bounds=None), (0.0, 0.25))
    assert points[0]["largest"] == 0.0
    assert points[1]["largest"] == pytest.approx(0.25, rel=1e-6)
    assert points[1]["flat"] == 0
    assert curve(bench.subject(model, x), UniformNoise(epsilon=0.0), (0.25,))[0]["flat"] is None
