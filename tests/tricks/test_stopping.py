"""Early stopping: scripted series, and what it is equivalent to on a quadratic."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference import metrics
from service.inference.report_stopping import holds_below
from service.tricks.stopping import EarlyStopping, Patience, Second, equivalent_l2, improves, ridge_share

NAN, INF = math.nan, math.inf
STEPS = 7


def follow(rule: EarlyStopping, values: list[float]) -> tuple[Patience, int | None]:
    """The progress where the rule stops or the series ends, and the epoch in which it stopped."""
    progress = Patience()
    for epoch, value in enumerate(values, 1):
        progress = rule.observe(progress, value, epoch=epoch, step=epoch * STEPS)
        if rule.stops(progress):
            return progress, epoch
    return progress, None


# name: fields of the rule, series, best epoch (0: none), best value, epoch of the stop.
SERIES: dict[str, tuple[dict[str, Any], list[float], int, float | None, int | None]] = {
    "best first": ({"patience": 3}, [1.0, 2.0, 3.0, 4.0, 0.1], 1, 1.0, 4),
    "best last": ({"patience": 3}, [5.0, 4.0, 3.0, 2.0, 1.0], 5, 1.0, None),
    "plateau keeps the earlier": ({"patience": 3}, [2.0, 1.0, 1.0, 1.0, 1.0, 0.5], 2, 1.0, 5),
    "just in time": ({"patience": 3}, [2.0, 3.0, 3.0, 1.0, 3.0, 3.0, 3.0], 4, 1.0, 7),
    "patience of one": ({"patience": 1}, [2.0, 1.0, 1.5, 0.0], 2, 1.0, 3),
    "nan never improves": ({"patience": 3}, [2.0, NAN, 1.0, NAN, NAN, NAN, 0.0], 3, 1.0, 6),
    "nan first": ({"patience": 3}, [NAN, NAN, 2.0, 1.0], 4, 1.0, None),
    "nan alone": ({"patience": 3}, [NAN, NAN, NAN, 1.0], 0, None, 3),
    "infinity gives way": ({"patience": 3}, [INF, 2.0, INF, INF, INF], 2, 2.0, 5),
    "min_delta has to be beaten": ({"patience": 2, "min_delta": 0.5}, [3.0, 2.6, 2.5, 1.0], 1, 3.0, 3),
    "min_delta is beaten": ({"patience": 2, "min_delta": 0.5}, [3.0, 2.4, 2.0, 1.5, 1.4], 4, 1.5, None),
    "slow progress adds up": ({"patience": 4, "min_delta": 0.5}, [3.0, 2.8, 2.6, 2.4, 2.3], 4, 2.4, None),
    "upwards": ({"patience": 2, "monitor": "accuracy"}, [0.5, 0.7, 0.6, 0.7, 0.9], 2, 0.7, 4),
    "upwards with a target's name": ({"patience": 2, "monitor": "label.accuracy"}, [0.5, 0.7, 0.8, 0.1], 3, 0.8, None),
    "upwards by min_delta": ({"patience": 2, "monitor": "accuracy", "min_delta": 0.1}, [0.5, 0.55, 0.65, 0.7, 0.7], 3, 0.65, 5),
    "negative losses": ({"patience": 2}, [-1.0, -2.0, -1.5, -3.0], 4, -3.0, None),
}


@pytest.mark.parametrize("name", SERIES)
def test_a_scripted_series(name: str) -> None:
    fields, values, best_epoch, best, stopped = SERIES[name]
    progress, found = follow(EarlyStopping(**fields), values)
    assert (progress.epoch, progress.step, progress.best, found) == (best_epoch, best_epoch * STEPS, best, stopped)


@settings(deadline=None, max_examples=200)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, NAN]), min_size=1, max_size=30), patience=st.integers(1, 6), up=st.booleans()
)
def test_the_kept_value_is_the_best_of_the_history(values: list[float], patience: int, up: bool) -> None:
    progress, stopped = follow(EarlyStopping(patience=patience, monitor="accuracy" if up else "loss"), values)
    seen = values[:stopped]
    known = [value for value in seen if not math.isnan(value)]
    if known:
        assert progress.best == (max if up else min)(known)
        assert progress.epoch == 1 + seen.index(progress.best), "a tie keeps the earlier"
    # It stops as soon as `patience` evaluations in a row brought nothing, and not before.
    assert progress.waited == len(seen) - progress.epoch
    assert (stopped is not None) == (progress.waited == patience)


DIRECTIONS = {
    "down": ("loss", "error", "nll", "nll_mixture", "brier", "ece", "rmse", "mse", "mae"),
    "up": ("accuracy", "balanced_accuracy", "f1_macro", "auroc", "r2"),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_direction_follows_the_metric(direction: str) -> None:
    for name in DIRECTIONS[direction]:
        assert improves(name) == improves(f"target.{name}") == improves(f"accuracy.{name}") == direction


def test_every_metric_has_a_direction() -> None:
    """Whatever is measured of predictions can be looked up in the table above."""
    p, labels, mean = np.full((4, 2), 0.5), np.array([0, 1, 0, 1]), np.zeros((4, 1))
    members = {"mean": mean[None], "variance": mean[None] + 1}
    measured = {*metrics.classification(p, labels), *metrics.regression(mean, labels[:, None].astype(float), mean + 1, members)}
    assert measured | {"loss"} == {name for names in DIRECTIONS.values() for name in names}


@pytest.mark.parametrize(("curvature", "share"), [(0.01, 0.975), (0.1, 0.766), (1.0, 0.026), (3.0, 2.7e-7)])
def test_equivalent_l2_holds_for_small_curvature_alone(curvature: float, share: float) -> None:
    """alpha_i eta tau of the ridge that descent on lam (theta - w)^2 / 2 is: near 1 only where eta lam tau is small."""
    rate, steps = 0.1, 50
    left = (1 - rate * curvature) ** steps
    ridge = curvature * left / (1 - left)
    assert ridge * rate * steps == pytest.approx(share, rel=0.02)
    assert ridge_share(curvature, steps=steps, learning_rate=rate) == pytest.approx(ridge * rate * steps, rel=1e-9)
    # Our alpha multiplies sum w^2, not half of it.
    assert ridge / (2 * equivalent_l2(steps, rate)) == pytest.approx(share, rel=0.02)


def test_descent_on_a_quadratic_is_ridge_per_direction() -> None:
    lam, w, rate, steps = np.array([0.01, 0.1, 1.0, 3.0]), np.array([1.0, -2.0, 0.5, 4.0]), 0.1, 50
    theta = np.zeros(4)
    for _ in range(steps):
        theta -= rate * lam * (theta - w)
    left = (1 - rate * lam) ** steps
    np.testing.assert_allclose(theta, (1 - left) * w, rtol=1e-12)
    shares = np.array([ridge_share(each, steps=steps, learning_rate=rate) for each in lam])
    np.testing.assert_allclose(theta, lam / (lam + shares / (rate * steps)) * w, rtol=1e-12)
    np.testing.assert_allclose(theta, lam / (lam + lam * left / (1 - left)) * w, rtol=1e-12)
    tiny = np.array([1e-6])
    np.testing.assert_allclose(
        tiny * (1 - rate * tiny) ** steps / (1 - (1 - rate * tiny) ** steps), 2 * equivalent_l2(steps, rate), rtol=1e-4
    )


@pytest.mark.parametrize(("steps", "rate"), [(1, 0.1), (50, 0.1), (7, 1.0), (100_000, 1e-3)])
def test_the_range_in_which_equivalent_l2_holds(steps: int, rate: float) -> None:
    """At its end the share is 95 %, below it more, and above it less."""
    end = holds_below(steps, rate)
    shares = [ridge_share(factor * end, steps=steps, learning_rate=rate) for factor in (1e-9, 0.5, 1.0, 2.0)]
    assert shares[2] == pytest.approx(0.95, rel=1e-9)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(1.0, rel=1e-6)
    assert 0.05 / (rate * steps) <= end <= 0.11 / (rate * steps), "eta lam tau of about a tenth"


def test_a_step_too_long_is_no_ridge() -> None:
    assert math.isnan(ridge_share(11.0, steps=5, learning_rate=0.1))
    assert ridge_share(10.0, steps=5, learning_rate=0.1) == 0.0


# name: fields, plan, and what ends it: (step, loss, reason).
BEST = Patience(best=0.5, epoch=6, step=42)
PLANS: dict[str, tuple[dict[str, Any], Second, list[tuple[int, float | None, str | None]]]] = {
    "by steps": ({"then": "retrain"}, Second(16, 0, 42), [(41, None, None), (42, None, "retrained")]),
    "by epochs": ({"then": "retrain", "retrain_by": "epochs"}, Second(16, 0, 54, True), [(53, None, None), (54, None, "retrained")]),
    "continue": (
        {"then": "continue"},
        Second(16, 42, 42 + 16 * 9, threshold=0.25),
        [(60, 0.26, None), (60, 0.25, "threshold"), (60, NAN, None), (186, 0.3, "cap"), (186, NAN, "cap"), (186, 0.2, "threshold")],
    ),
    "capped": ({"then": "continue", "cap_epochs": 2}, Second(16, 42, 60, threshold=0.25), [(59, INF, None), (60, INF, "cap")]),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_second_phase(name: str) -> None:
    """After 16 epochs of 7 steps, the sixth being the best; with the validation rows an epoch has 9."""
    fields, plan, ends = PLANS[name]
    rule = EarlyStopping(**fields)
    assert rule.second(BEST, epochs=16, every=7, longer=9, threshold=0.25 if rule.then == "continue" else None) == plan
    for step, loss, reason in ends:
        assert plan.ends(step, loss) == reason, (step, loss)
    assert plan.share(plan.step) == 0.0
    assert plan.share(plan.last) == 1.0
    assert rule.most_steps(42, epochs=16, every=7, longer=9) == plan.last - plan.step
    assert 0 < rule.first_share(16) < 1


def test_without_a_second_phase_the_first_is_all() -> None:
    rule = EarlyStopping()
    assert (rule.goes_on, rule.first_share(16), rule.most_steps(42, epochs=16, every=7, longer=9)) == (False, 1.0, 0)
