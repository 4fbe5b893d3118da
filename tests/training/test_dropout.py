"""Dropout from a posted spec to a trained member: what is warned of and refused, and what rates of units come to."""

from typing import Any

import pytest

from service.errors import Flaw, Invalid
from service.resolving import resolve
from service.settings import Settings

NET = {"type": "mlp", "hidden": [12, 12]}
COMMON: dict[str, Any] = {"dataset": "digits", "batch_size": 220, "epochs": 20}
WARNING = ("/architecture/dropout", "dropout-before-batch-norm")
# What comes before a layer's batch norm: inputs and all hidden units but those of the last layer.
SHIFTED: dict[str, dict[str, Any]] = {
    "one rate": {"architecture": {**NET, "batch_norm": True, "dropout": 0.5}},
    "inputs": {"architecture": {**NET, "batch_norm": True, "dropout": {"input": 0.1}}},
    "one unit": {"architecture": {**NET, "batch_norm": True, "dropout": {"hidden": [[0.0] * 11 + [0.1], 0.0]}}},
    "one member": {"architecture": {**NET, "batch_norm": True}, "ensemble": {"size": 2, "vary": {"dropout": [0.0, 0.1]}}},
}
NOT_SHIFTED: dict[str, dict[str, Any]] = {
    "the last layer alone": {"architecture": {**NET, "batch_norm": True, "dropout": {"hidden": [0.0, 0.5]}}},
    "units of the last layer alone": {"architecture": {**NET, "batch_norm": True, "dropout": {"hidden": [[0.0] * 12, [0.5, 0.1] * 6]}}},
    "a single layer": {"architecture": {"type": "mlp", "hidden": [12], "batch_norm": True, "dropout": 0.5}},
    "a linear model": {"architecture": {"type": "mlp", "hidden": [], "batch_norm": True, "dropout": {"input": 0.5}}},
    "no batch norm": {"architecture": {**NET, "dropout": {"input": 0.2, "hidden": 0.5}}},
    "no rate": {"architecture": {**NET, "batch_norm": True, "dropout": 0.0}},
    "a rate that no member takes": {"architecture": {**NET, "batch_norm": True}, "ensemble": {"vary": {"dropout": [0.0]}}},
}


def warned(bench: Any, **fields: Any) -> list[tuple[str, str]]:
    found: tuple[Flaw, ...] = resolve({**COMMON, **fields}, bench._source, Settings()).warnings
    return [(flaw.pointer, flaw.code) for flaw in found]


@pytest.mark.parametrize("name", SHIFTED)
def test_batch_norm_after_dropout_is_warned_of(bench: Any, name: str) -> None:
    assert warned(bench, **SHIFTED[name]) == [WARNING]


@pytest.mark.parametrize("name", NOT_SHIFTED)
def test_dropout_after_the_last_batch_norm_is_not_warned_of(bench: Any, name: str) -> None:
    assert warned(bench, **NOT_SHIFTED[name]) == []


@pytest.mark.parametrize("rates", [[0.1, 0.2], [[0.5] * 12, 0.2], [[0.1, 0.2] * 6, [0.0] * 12]])
def test_members_rates_do_not_go_with_rates_of_layers_or_units(bench: Any, rates: Any) -> None:
    fields = {"architecture": {**NET, "dropout": {"hidden": rates}}, "ensemble": {"size": 2, "vary": {"dropout": [0.1, 0.2]}}}
    with pytest.raises(Invalid) as refused:
        resolve({**COMMON, **fields}, bench._source, Settings())
    assert [(flaw.pointer, flaw.code) for flaw in refused.value.flaws] == [("/ensemble/vary/dropout", "inconsistent-spec")]


def test_a_list_of_units_is_refused_at_its_place_in_the_job(bench: Any) -> None:
    with pytest.raises(Invalid) as refused:
        resolve({**COMMON, "architecture": {**NET, "dropout": {"hidden": [0.5, [0.1] * 11]}}}, bench._source, Settings())
    (flaw,) = refused.value.flaws
    assert (flaw.pointer, flaw.code, flaw.message) == ("/architecture/dropout/hidden/1", "inconsistent-spec", "11 rates for 12 units")


def test_equal_rates_of_units_train_as_the_one_rate_does(bench: Any) -> None:
    fields = {"batch_size": 220, "epochs": 3}
    one, each, other = (
        bench.train(bench.material("digits", architecture={**NET, "dropout": {"hidden": rates}}, **fields))
        for rates in (0.5, [[0.5] * 12, [0.5] * 12], [[0.5] * 11 + [0.4], 0.5])
    )
    assert each.weights == one.weights
    assert [epoch.values for epoch in each.epochs] == [epoch.values for epoch in one.epochs]
    assert other.weights != one.weights


def test_a_unit_that_is_nearly_always_dropped_hardly_learns(bench: Any) -> None:
    """Its weights into the head stay near where they began, beside those of a unit that is never dropped."""
    net = {"type": "mlp", "hidden": [4], "dropout": {"hidden": [[0.0, 0.9999, 0.0, 0.0]]}}
    material = bench.material("digits", architecture=net, batch_size=64, epochs=3)
    before: dict[str, Any] = {}
    trained = bench.train(material, prepared=lambda run: before.update({k: v.detach().clone() for k, v in run.network.learned().items()}))
    moved = (trained.run.network.learned()["heads.0.weight"].detach() - before["heads.0.weight"]).abs().sum(0)
    assert float(moved[1]) < 0.2 * float(moved[[0, 2, 3]].min())
