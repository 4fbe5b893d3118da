"""Errors of reconstructions as scores: thresholds with a wished rate of false alarms, and what they find."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from service.errors import Invalid, ModeUnavailable
from service.inference import alarms
from service.inference.alarms import kept_errors, measured, threshold
from service.inference.measuring import Inquiry
from service.inference.model import Model, rebuild
from service.inference.predicting import PredictRequest, predict
from service.inference.settling import settle
from service.tricks.modes import Asking
from workers.training.checkpointing import pack

PLANE = np.random.default_rng(0).normal(size=(2, 6))
UNIT = np.array([1.0, 10.0, 0.1, 3.0, 1.0, 1.0])
NET = {
    "architecture": {"type": "autoencoder", "hidden": [], "code": 2},
    "epochs": 60,
    "batch_size": 100,
    "optimizer": {"type": "adam", "learning_rate": 0.02},
}
SPLIT = {"validation": 0.4, "test": 0.3}


def rows(count: int, seed: int) -> Any:
    """Points of a plane in six dimensions, off it by a little noise, each axis in a unit of its own."""
    stream = np.random.default_rng(seed)
    return (stream.normal(size=(count, 2)) @ PLANE + 0.03 * stream.normal(size=(count, 6))) * UNIT


def trained(bench: Any, *, size: int = 1, **fields: Any) -> tuple[Model, Inquiry]:
    name = bench.table("plane", {f"f{i}": column.tolist() for i, column in enumerate(rows(1000, 1).T)})
    made = bench.material(name, **{**NET, "split": SPLIT, "ensemble": {"size": size}, **fields})
    gathered = bench.model(made, *(bench.train(made, member) for member in range(size)))
    model = settle(Inquiry(gathered, made))
    return model, Inquiry(model, made)


@pytest.fixture(scope="module")
def plane(bench: Any) -> tuple[Model, Inquiry]:
    return trained(bench)


def flagged(model: Model, x: Any, rate: float, **asked: Any) -> dict[str, Any]:
    axes = Asking(**asked).axes(model)
    said = predict(model, torch.from_numpy(x).float(), axes, parts=["error", "anomaly"], false_alarm_rate=rate)["input"]
    assert said["anomaly"]["anomalous"] == [error > said["anomaly"]["threshold"] for error in said["error"]]
    return dict(said["anomaly"])


def test_a_threshold_is_exceeded_as_often_as_wished() -> None:
    """Over many draws of n errors: in floor((n + 1) r) of n + 1 cases exactly, however errors are distributed."""
    stream = np.random.default_rng(0)
    for draw in (stream.standard_exponential, stream.standard_cauchy):
        for count, rate, alarms_of in ((19, 0.05, 1), (19, 0.1, 2), (40, 0.05, 2), (99, 0.02, 2)):
            errors = np.sort(draw((20_000, count)))
            fresh = draw(20_000)
            above = sum(fresh[i] > (threshold(errors[i].tolist(), rate) or np.inf) for i in range(20_000))
            low, high = stats.binom.interval(1 - 1e-6, 20_000, alarms_of / (count + 1))
            assert low <= above <= high
    assert threshold([1.0, 2.0], 0.3) is None
    assert threshold([1.0, 2.0], 0.34) == 2.0
    assert threshold([1.0, 2.0], 0.999999999999) == 1.0
    assert threshold([], 0.5) is None


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_fresh_rows_are_seldom_taken_for_anomalies_and_anomalies_are_found(plane: tuple[Model, Inquiry], rate: float) -> None:
    model, inquiry = plane
    count = len(inquiry.parts["validation"])
    honest = flagged(model, rows(4000, 2), rate)
    assert (honest["false_alarm_rate"], honest["validation_rows"]) == (rate, count)
    above = int((count + 1) * rate + 1e-9)
    low, high = stats.betabinom.interval(1 - 1e-6, 4000, above, count + 1 - above)  # given how many of how many are above it
    assert low <= sum(honest["anomalous"]) <= high
    strange = np.random.default_rng(4).permuted(rows(500, 3), axis=0)  # each value honest, their combination not
    assert np.mean(flagged(model, strange, rate)["anomalous"]) > 0.9


def test_the_threshold_is_in_the_inputs_own_unit_and_kept_with_the_model(plane: tuple[Model, Inquiry]) -> None:
    model, inquiry = plane
    x = inquiry.material.inputs[inquiry.parts["validation"]].astype(np.float64)
    axes = Asking().axes(model)
    said = predict(model, torch.from_numpy(x).float(), axes, parts=["error"])["input"]
    prediction = np.array(said["prediction"])
    np.testing.assert_allclose(model.settled["input"].errors, np.sort(((prediction - x) ** 2).mean(1)), rtol=1e-4)
    stored = rebuild(json.loads(json.dumps(model.spec.dump())), json.loads(json.dumps(model.describe())), pack(model.tensors()))
    assert flagged(stored, x, 0.05) == flagged(model, x, 0.05)
    found = measured(inquiry)
    assert found is not None
    test = inquiry.material.inputs[inquiry.parts["test"]]
    assert found == {"false_alarm_rate": 0.05, "threshold": found["threshold"], "test": np.mean(flagged(model, test, 0.05)["anomalous"])}
    assert found["threshold"] == flagged(model, x, 0.05)["threshold"]


def test_of_many_validation_rows_some_are_kept(plane: tuple[Model, Inquiry], monkeypatch: pytest.MonkeyPatch) -> None:
    model, inquiry = plane
    monkeypatch.setattr(alarms, "MOST_ERRORS", 150)
    kept = kept_errors(inquiry, model.spec.targets[0])
    assert kept is not None
    assert len(kept) == -(-len(inquiry.parts["validation"]) // 3)
    assert list(kept) == sorted(kept)
    assert set(kept) <= set(model.settled["input"].errors)


def test_what_has_no_threshold_says_why(bench: Any, plane: tuple[Model, Inquiry]) -> None:
    model, _ = plane
    x = rows(3, 5)
    with pytest.raises(Invalid, match="400 validation rows") as refused:
        flagged(model, x, 0.002)
    assert refused.value.flaws[0].pointer == "/false_alarm_rate"
    for fields in ({"split": {"validation": 0, "test": 0.1}}, {"early_stopping": {"then": "retrain"}}):
        never, inquiry = trained(bench, **{**fields, "epochs": 2})
        assert measured(inquiry) is None
        with pytest.raises(ModeUnavailable, match="no errors of validation rows"):
            flagged(never, x, 0.05)
    classes = bench.material("digits", epochs=1)
    with pytest.raises(Invalid, match="only a model with a reconstruction has anomalies"):
        predict(bench.model(classes, bench.train(classes)), torch.zeros(1, 8, 8), Asking().axes(model), parts=["anomaly"])
    with pytest.raises(ValueError, match="less_than"):
        PredictRequest(inputs=[], false_alarm_rate=1.0)


def test_members_have_one_threshold_that_is_of_their_mean(bench: Any) -> None:
    model, _ = trained(bench, size=2, epochs=4)
    x = rows(3, 5)
    usual = flagged(model, x, 0.05)
    assert flagged(model, x, 0.05, members="all", weights=[2.0, 2.0]) == usual
    for asked in ({"members": "best"}, {"members": "all", "weights": [1.0, 2.0]}):
        with pytest.raises(ModeUnavailable, match="default mode"):
            flagged(model, x, 0.05, **asked)
