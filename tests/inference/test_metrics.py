"""Metrics against scikit-learn, scipy and figures made by hand."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from sklearn import metrics as sk

from service.inference import metrics

seeds = st.integers(0, 10_000)


def guesses(seed: int, rows: int = 60, classes: int = 3, digits: int = 2) -> tuple[NDArray[Any], NDArray[Any]]:
    """Probabilities, rounded so that scores tie, and labels of every class."""
    stream = np.random.default_rng(seed)
    p = stream.dirichlet(np.full(classes, 0.7), rows).round(digits) + 1e-3
    labels = stream.permutation(np.arange(rows) % classes)
    return p / p.sum(1, keepdims=True), labels


@settings(deadline=None, max_examples=60)
@given(seed=seeds, classes=st.integers(2, 5))
def test_classification_is_that_of_scikit_learn(seed: int, classes: int) -> None:
    p, y = guesses(seed, classes=classes)
    found = metrics.classification(p, y)
    predicted = p.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(y, predicted),
        "error": 1 - sk.accuracy_score(y, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        "f1_macro": sk.f1_score(y, predicted, average="macro"),
        "auroc": sk.roc_auc_score(y, p[:, 1]) if classes == 2 else sk.roc_auc_score(y, p, multi_class="ovr"),
        "nll": sk.log_loss(y, p),
        "brier": ((p - np.eye(classes)[y]) ** 2).sum(1).mean(),
    }
    assert set(found) == {*expected, "ece"}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-10, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(seed=seeds, present=st.integers(1, 3))
def test_classes_that_do_not_occur(seed: int, present: int) -> None:
    p, _ = guesses(seed, rows=10, classes=4)
    y = np.random.default_rng(seed).integers(0, present, 10)
    found = metrics.classification(p, y)
    with warnings.catch_warnings():
        # A class that was only predicted has no recall; scikit-learn says so and leaves it out, as we do.
        warnings.simplefilter("ignore")
        assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1)), rel=1e-12)
        assert found["f1_macro"] == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"), rel=1e-12)
    areas = [sk.roc_auc_score(y == c, p[:, c]) for c in range(4) if 0 < (y == c).sum() < 10]
    assert found["auroc"] == pytest.approx(np.mean(areas), rel=1e-12) if areas else math.isnan(found["auroc"])


@settings(deadline=None, max_examples=100)
@given(scores=st.lists(st.integers(0, 6), min_size=2, max_size=40), seed=seeds)
def test_auroc_is_mann_whitney_with_ties_counting_half(scores: list[int], seed: int) -> None:
    positive = np.random.default_rng(seed).random(len(scores)) < 0.4
    found = metrics.auroc(np.array(scores, dtype=float), positive)
    if positive.all() or not positive.any():
        assert math.isnan(found)
        return
    ups, downs = np.array(scores)[positive], np.array(scores)[~positive]
    pairs = (ups[:, None] > downs).mean() + 0.5 * (ups[:, None] == downs).mean()
    u = stats.mannwhitneyu(ups, downs).statistic / (len(ups) * len(downs))
    assert found == pytest.approx(pairs, rel=1e-12)
    assert found == pytest.approx(u, rel=1e-12)


def test_rows_without_a_label_do_not_count() -> None:
    p, y = guesses(3)
    y[::4] = -1
    assert metrics.classification(p, y) == metrics.classification(p[y >= 0], y[y >= 0])
    assert metrics.classification(p, np.full(60, -1)) == {}


def test_a_certain_mistake_is_not_infinite() -> None:
    found = metrics.classification(np.array([[1.0, 0.0]]), np.array([1]))
    assert math.isfinite(found["nll"])
    assert found["nll"] > 100
    assert found["brier"] == 2.0


# Confidence and whether it was right, and the calibration error by hand.
CALIBRATION = {
    "one bin": ([0.95, 0.96, 0.97, 0.94], [1, 1, 1, 0], abs(0.75 - 0.955)),
    "two bins": ([0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0], 0.5 * 0.05 + 0.5 * 0.05),
    "opposite errors in one bin do not cancel over bins": ([0.9, 0.5], [0, 1], 0.5 * 0.9 + 0.5 * 0.5),
    "opposite errors within a bin do": ([0.95, 0.95], [1, 0], 0.45),
    "always right": ([1.0, 1.0], [1, 1], 0.0),
    "always wrong": ([1.0, 1.0], [0, 0], 1.0),
}


@pytest.mark.parametrize("name", CALIBRATION)
def test_expected_calibration_error_by_hand(name: str) -> None:
    confidence, correct, expected = CALIBRATION[name]
    assert metrics.expected_calibration_error(np.array(confidence), np.array(correct, dtype=bool)) == pytest.approx(expected, abs=1e-12)


def test_bins_are_closed_on_the_right() -> None:
    edges = np.arange(1, 16) / 15
    for edge, left in zip(edges, (0.0, *edges), strict=False):
        both = metrics.calibration_bins(np.array([edge, (edge + left) / 2]), np.array([True, False]))
        assert [found.count for found in both] == [2]
        apart = metrics.calibration_bins(np.array([edge, min(edge + 1e-9, 1.0)]), np.array([True, False]))
        assert len(apart) == (1 if edge == 1 else 2)


def test_calibrated_guesses_have_a_vanishing_error() -> None:
    stream = np.random.default_rng(0)
    errors = []
    for rows in (1_000, 100_000):
        confidence = stream.uniform(0.3, 1.0, rows)
        errors.append(metrics.expected_calibration_error(confidence, stream.random(rows) < confidence))
    assert errors[1] < 0.005
    assert errors[1] < 0.3 * errors[0]


@settings(deadline=None, max_examples=60)
@given(seed=seeds, outputs=st.integers(1, 3))
def test_regression_is_that_of_scikit_learn_and_scipy(seed: int, outputs: int) -> None:
    stream = np.random.default_rng(seed)
    truth, mean = stream.normal(3, 5, (30, outputs)), stream.normal(3, 5, (30, outputs))
    variance = stream.uniform(0.1, 9, (30, outputs))
    found = metrics.regression(mean, truth, variance)
    mse = sk.mean_squared_error(truth, mean)
    expected = {
        "mse": mse,
        "rmse": mse**0.5,
        "mae": sk.mean_absolute_error(truth, mean),
        "r2": 1 - ((truth - mean) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum(),
        "nll": -stats.norm.logpdf(truth, mean, variance**0.5).sum(1).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-10)
    if outputs == 1:
        assert found["r2"] == pytest.approx(sk.r2_score(truth, mean), rel=1e-10)


def test_predicting_the_mean_explains_nothing() -> None:
    truth = np.random.default_rng(0).normal(size=(20, 2)) * [1, 100]
    assert metrics.regression(np.broadcast_to(truth.mean(0), truth.shape), truth, None)["r2"] == pytest.approx(0, abs=1e-12)
    assert metrics.regression(truth, truth, None)["r2"] == 1.0
    assert math.isnan(metrics.regression(np.zeros((3, 1)), np.ones((3, 1)), None)["r2"])


def test_a_row_counts_where_all_its_numbers_are_known() -> None:
    stream = np.random.default_rng(0)
    truth, mean, variance = stream.normal(size=(9, 2)), stream.normal(size=(9, 2)), stream.uniform(1, 2, (9, 2))
    members = {"mean": stream.normal(size=(3, 9, 2)), "variance": stream.uniform(1, 2, (3, 9, 2))}
    truth[2, 0], truth[5] = np.nan, np.nan
    known = [0, 1, 3, 4, 6, 7, 8]
    kept = {name: values[:, known] for name, values in members.items()}
    assert metrics.regression(mean, truth, variance, members) == metrics.regression(mean[known], truth[known], variance[known], kept)
    assert metrics.regression(mean, np.full((9, 2), np.nan), variance) == {}


@settings(deadline=None, max_examples=80)
@given(seed=seeds, k=st.integers(1, 6))
def test_the_mixture_is_no_worse_than_the_mean_member_on_any_row(seed: int, k: int) -> None:
    """Jensen, a theorem for the density of the mixture; not for the Gaussian with its mean and variance."""
    stream = np.random.default_rng(seed)
    truth = stream.normal(size=(8, 2))
    members = {"mean": stream.normal(size=(k, 8, 2)) * 2, "variance": stream.uniform(1e-3, 3, (k, 8, 2))}
    each = -stats.norm.logpdf(truth, members["mean"], members["variance"] ** 0.5).sum(-1)
    expected = -special.logsumexp(-each, axis=0) + math.log(k)
    for row in range(8):
        one = {name: values[:, row : row + 1] for name, values in members.items()}
        mean, spread = one["mean"].mean(0), one["variance"].mean(0) + one["mean"].var(0)
        found = metrics.regression(mean, truth[row : row + 1], spread, one)
        assert found["nll_mixture"] == pytest.approx(expected[row], rel=1e-9, abs=1e-12)
        assert found["nll_mixture"] <= each[:, row].mean() + 1e-12
    whole = metrics.regression(members["mean"].mean(0), truth, None, members)
    assert whole["nll_mixture"] == pytest.approx(expected.mean(), rel=1e-9, abs=1e-12)


def test_the_moment_matched_gaussian_can_be_worse_than_its_members() -> None:
    """Two members N(0, 1e-4) and N(0, 1) at y = 0: -1.38 in the mean, -3.00 as a mixture, .57 moment-matched."""
    members = {"mean": np.zeros((2, 1, 1)), "variance": np.array([1e-4, 1.0]).reshape(2, 1, 1)}
    each = metrics.gaussian_nll(members["mean"], members["variance"], np.zeros((1, 1)))
    found = metrics.regression(np.zeros((1, 1)), np.zeros((1, 1)), members["variance"].mean(0), members)
    assert (each.mean(), found["nll_mixture"], found["nll"]) == pytest.approx((-1.38, -3.00, 0.57), abs=0.01)
