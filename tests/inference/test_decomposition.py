"""The ensemble's own formula: what errors with a known v and c say of it, at every size, and against the best member."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference import decomposition, metrics
from service.inference.decomposition import (
    LEVEL,
    MOST_BLOCKS,
    against_best,
    class_errors,
    errors_by_size,
    mean_interval,
    member_squares,
    number_errors,
    variance_decomposition,
)

NUMBER = {"task": "regression", "name": "size"}


def drawn(k: int, rows: int, v: float, c: float, seed: int = 0) -> np.ndarray:
    """Errors [K, N] of mean 0 with variances v and covariances c, from the eigenvectors of that matrix."""
    stream = np.random.default_rng(seed)
    apart = stream.normal(size=(k, rows))
    apart -= apart.mean(axis=0)
    together = stream.normal(size=rows)
    return np.sqrt(v - c) * apart + np.sqrt(max(0.0, (v + (k - 1) * c) / k)) * together


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("part", ["none", "half", "all", "opposed"])
def test_a_known_v_and_c_are_recovered(k: int, part: str) -> None:
    v, rows = 4.0, 40_000
    c = {"none": 0.0, "half": v / 2, "all": v, "opposed": -v / (k - 1)}[part]
    found = variance_decomposition(drawn(k, rows, v, c))
    # A product of two normal errors has variance v^2 + c^2 at most 2 v^2; means over members are no wider.
    tolerance = 5 * v * (2 / rows) ** 0.5
    assert found["v"] == pytest.approx(v, abs=tolerance)
    assert found["c"] == pytest.approx(c, abs=tolerance)
    assert found["predicted_error"] == pytest.approx(found["measured_error"], rel=1e-9, abs=1e-12)
    assert found["measured_error"] == pytest.approx(v / k + (k - 1) * c / k, abs=tolerance)


@settings(deadline=None, max_examples=30)
@given(k=st.integers(1, 6), rows=st.integers(1, 12), outputs=st.integers(1, 3), seed=st.integers(0, 1000))
def test_the_line_is_the_mean_over_all_choices_of_so_many(k: int, rows: int, outputs: int, seed: int) -> None:
    errors = np.random.default_rng(seed).normal(1.0, 2.0, (k, rows, outputs))
    found = errors_by_size(errors)
    assert [row["k"] for row in found] == list(range(1, k + 1))
    for row in found:
        chosen = [errors[list(places)].mean(0) for places in itertools.combinations(range(k), row["k"])]
        assert row["predicted"] == pytest.approx(np.mean([(mean**2).sum() / rows for mean in chosen]), rel=1e-9)
        assert row["measured"] == pytest.approx((errors[: row["k"]].mean(0) ** 2).sum() / rows, rel=1e-9)
    whole = variance_decomposition(errors)
    assert found[-1]["measured"] == pytest.approx(whole["measured_error"], rel=1e-9)
    assert found[-1]["predicted"] == pytest.approx(whole["measured_error"], rel=1e-9)
    assert found[0]["predicted"] == pytest.approx(whole["v"], rel=1e-9)


def test_errors_are_those_of_the_metrics(bench: Any) -> None:
    stream = np.random.default_rng(0)
    p, labels = stream.dirichlet(np.ones(3), (1, 30)), stream.integers(-1, 3, 30)
    model = bench.model()
    material = bench.material(model, bench.inputs(30), {"kind": labels})
    name, errors = class_errors(p, model.spec.targets[0], material, np.arange(30))
    assert member_squares(errors).mean() == pytest.approx(metrics.classification(p[0], labels)[name], rel=1e-12)
    model, mean, truth = bench.model(NUMBER), stream.normal(size=(1, 30, 2)), stream.normal(size=(30, 2))
    truth[4, 1] = np.nan
    material = bench.material(model, bench.inputs(30), {"size": truth})
    name, errors = number_errors(mean, model.spec.targets[0], material, np.arange(30))
    assert errors.shape[1] == 29
    assert member_squares(errors).mean() == pytest.approx(metrics.regression(mean[0], truth, None)[name], rel=1e-12)


# --- against the best member ----------------------------------------------------------------------------------------


def test_the_interval_is_that_of_another_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(2.0, 200)
    found = mean_interval(values, seed=0)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", confidence_level=LEVEL, rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found["difference"] == pytest.approx(values.mean(), rel=1e-12)
    assert found["low"] == pytest.approx(theirs.low, abs=0.05 * width)
    assert found["high"] == pytest.approx(theirs.high, abs=0.05 * width)
    assert found == mean_interval(values, seed=0)
    assert found["low"] != mean_interval(values, seed=1)["low"]


def test_blocks_of_many_rows_are_as_wide_as_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).exponential(2.0, 10 * MOST_BLOCKS + 7)
    found = mean_interval(values, seed=0)
    reach = 1.96 * values.std() / len(values) ** 0.5
    assert found["low"] == pytest.approx(values.mean() - reach, abs=0.15 * reach)
    assert found["high"] == pytest.approx(values.mean() + reach, abs=0.15 * reach)


def test_the_interval_covers_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 samples of 60 rows; the binomial's own spread is .011, and percentile intervals of a mean are a little short."""
    monkeypatch.setattr(decomposition, "RESAMPLES", 500)
    stream = np.random.default_rng(0)
    intervals = [mean_interval(stream.normal(0.3, 1.0, 60), seed=seed) for seed in range(400)]
    covered = np.mean([found["low"] <= 0.3 <= found["high"] for found in intervals])
    assert 0.905 < covered < 0.985


def test_independent_members_are_beaten_and_a_copy_is_not() -> None:
    errors = drawn(6, 300, 1.0, 0.0)
    best, better = against_best(errors, seed=0)
    each = (errors**2).mean(1)
    assert best == each.argmin()
    assert better["difference"] == pytest.approx(each.min() - (errors.mean(0) ** 2).mean(), rel=1e-12)
    assert better["low"] > 0
    equal = np.repeat(errors[:1], 3, axis=0)
    best, better = against_best(equal, seed=0)
    assert best == 0, "ties go to the first"
    assert better == {"difference": pytest.approx(0, abs=1e-15), "low": pytest.approx(0, abs=1e-15), "high": pytest.approx(0, abs=1e-15),
                      "level": LEVEL}  # fmt: skip


def test_one_good_member_among_bad_ones_beats_the_ensemble() -> None:
    errors = drawn(4, 300, 1.0, 0.9)
    errors[2] *= 0.1
    best, better = against_best(errors, seed=0)
    assert best == 2
    assert better["high"] < 0


def test_rows_are_paired() -> None:
    """Errors that both share leave the difference alone, however large they are: unpaired intervals would be wide."""
    errors = drawn(5, 300, 1.0, 0.0)
    shared = 50.0 * np.sign(np.random.default_rng(3).normal(size=300))
    apart = errors - errors.mean(axis=0)
    found = against_best(apart + shared, seed=0)[1]
    squares = ((apart + shared) ** 2).mean(1).min()
    assert found["high"] - found["low"] < 0.02 * squares
