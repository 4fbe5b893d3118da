"""Members that differ in learning rate, dropout and strength of a penalty: each is as if its job had said so."""

import json
from typing import Any

import pytest
import torch

from service.errors import Flaw
from service.inference.asking import ask, check_axes, networks_asked
from service.inference.model import Model, rebuild, serving
from service.resolving import resolve
from service.settings import Settings
from service.spec import TrainSpec
from service.tricks.bagging import Vary
from service.tricks.modes import Asking
from workers.training.checkpointing import pack
from workers.training.loop import Epoch, train
from workers.training.run import build, start
from workers.training.task import Task

CPU = torch.device("cpu")
NET = {"type": "mlp", "hidden": [12, 12]}
COMMON: dict[str, Any] = {"architecture": NET, "batch_size": 220, "epochs": 3}
L1 = [{"type": "l1", "alpha": 1e-4}, {"type": "max_norm", "limit": 1.0}]
# What varies, the job around it, and what a job of its own would say for the member with the value.
SAID: dict[str, tuple[list[float], dict[str, Any], Any]] = {
    "learning_rate": (
        [1e-3, 0.02],
        {"schedule": {"type": "cosine"}},
        lambda value: {"optimizer": {"type": "adam", "learning_rate": value}},
    ),
    "dropout": ([0.0, 0.5], {}, lambda value: {"architecture": {**NET, "dropout": value}}),
    "alpha": ([0.0, 0.01], {"regularizers": L1}, lambda value: {"regularizers": [{**L1[0], "alpha": value}, L1[1]]}),
}


@pytest.mark.parametrize("name", SAID)
def test_a_member_is_that_of_a_job_with_its_value(bench: Any, name: str) -> None:
    values, fields, said = SAID[name]
    varied = bench.material("digits", **COMMON, **fields, ensemble={"size": 5, "vary": {name: values}})
    jobs = [bench.material("digits", **{**COMMON, **fields, **said(value)}, ensemble={"size": 5}) for value in values]
    for member in (3, 4):
        found, own, other = (bench.train(job, member) for job in (varied, jobs[member % 2], jobs[(member + 1) % 2]))
        assert found.weights == own.weights
        assert [epoch.values for epoch in found.epochs] == [epoch.values for epoch in own.epochs]
        assert found.weights != other.weights


def test_lists_are_taken_in_turn_each_for_itself() -> None:
    vary = Vary(learning_rate=(0.1, 0.2), dropout=(0.0, 0.3, 0.6))
    assert vary.values(4) == {"learning_rate": 0.1, "dropout": 0.3}
    spec = TrainSpec.model_validate({"dataset": "digits", **COMMON, "ensemble": {"size": 6, "vary": vary.dump()}})
    assert len({(own.optimizer.learning_rate, own.architecture.dropout.hidden) for own in map(spec.of, range(6))}) == 6
    assert spec.of(4).of(4) == spec.of(4)


def test_inputs_keep_their_rate() -> None:
    net = {**NET, "dropout": {"input": 0.2, "hidden": 0.1}}
    spec = TrainSpec.model_validate({"dataset": "digits", "architecture": net, "ensemble": {"vary": {"dropout": [0.5]}}})
    assert spec.of(0).architecture.dropout.dump() == {"input": 0.2, "hidden": 0.5, "channel": 0.0}


@pytest.mark.parametrize(("rates", "size", "drops"), [([0.0], 1, False), ([0.0, 0.5], 2, True), ([0.0, 0.5], 1, False), (None, 2, False)])
def test_whether_any_member_drops(rates: list[float] | None, size: int, drops: bool) -> None:
    spec = TrainSpec.model_validate({"dataset": "digits", **COMMON, "ensemble": {"size": size, "vary": {"dropout": rates}}})
    assert spec.drops is drops


def test_values_that_nobody_takes_are_warned_of(bench: Any) -> None:
    raw = {
        "dataset": "digits",
        **COMMON,
        "epochs": 20,
        "ensemble": {"size": 2, "vary": {"learning_rate": [0.1, 0.2, 0.3], "dropout": [0.5, 0.2]}},
    }
    found: tuple[Flaw, ...] = resolve(raw, bench._source, Settings()).warnings
    assert [(flaw.pointer, flaw.code) for flaw in found] == [("/ensemble/vary/learning_rate", "values-beyond-members")]


@pytest.fixture
def model(bench: Any) -> Model:
    """Members 1, 2 and 3 of a job that lost member 0, with rates .5, 0 and .5."""
    material = bench.material("digits", **COMMON, ensemble={"size": 4, "vary": {"dropout": [0.0, 0.5]}})
    networks = tuple(serving(build(material, torch.Generator().manual_seed(i), member=i)) for i in (1, 2, 3))
    return Model(material.spec, material.encoding, material.classes, networks, 1, (1, 2, 3))


def rates(model: Model) -> list[float]:
    return [network.sites[-1].rate for network in model.networks]


def test_a_model_read_back_has_its_members_rates(model: Model) -> None:
    assert rates(model) == [0.5, 0.0, 0.5]
    again = rebuild(json.loads(json.dumps(model.spec.dump())), json.loads(json.dumps(model.describe())), pack(model.tensors()))
    assert rates(again) == rates(model)
    assert again.numbers == (1, 2, 3)
    assert again.spec_of(1) == model.spec.of(2)


def test_a_member_without_dropout_has_one_answer_for_all_masks(model: Model) -> None:
    """In every mode that masks have, beside members that drop."""
    x = torch.rand(5, 8, 8) * 16
    alone = ask(model, x, Asking(members=1).axes(model))["label"].probabilities
    for dropout in ("monte_carlo", "exact", "sampled"):
        axes = Asking(members=1, dropout=dropout, samples=7).axes(model)
        check_axes(model, axes)
        torch.testing.assert_close(ask(model, x, axes)["label"].probabilities, alone)
    both = ask(model, x, Asking(members="all", dropout="monte_carlo", samples=7).axes(model))["label"].probabilities
    each = [ask(model, x, Asking(members=i, dropout="monte_carlo", samples=7).axes(model))["label"].probabilities for i in range(3)]
    torch.testing.assert_close(both, torch.stack(each).mean(0))
    weights = tuple(float(i + 1) for i in range(21))
    listed = Asking(members="all", dropout="monte_carlo", samples=7, weights=list(weights)).axes(model)
    assert networks_asked(model, listed) == len(weights)
    parts = [
        ask(model, x, Asking(members=i, dropout="monte_carlo", samples=7, weights=list(weights[7 * i : 7 * i + 7])).axes(model))
        for i in range(3)
    ]
    total = sum(part["label"].probabilities * sum(weights[7 * i : 7 * i + 7]) for i, part in enumerate(parts))
    torch.testing.assert_close(ask(model, x, listed)["label"].probabilities, total / sum(weights))


def test_side_by_side_each_has_its_own_rate_and_penalty(bench: Any) -> None:
    """What is measured of a member in a stack is what is measured of it alone."""
    fields = {**COMMON, "schedule": {"type": "cosine"}, "regularizers": L1}
    material = bench.material("digits", **fields, ensemble={"size": 4, "vary": {"learning_rate": [0.02, 0.001], "alpha": [0.0, 1e-3, 0.1]}})
    run = start(material, range(4), CPU, stacked=True)
    epochs = [record.measured for record in train(run, Task(material, run, CPU), tick_s=1e9) if isinstance(record, Epoch)]
    for member in range(4):
        alone = [epoch.values for epoch in bench.train(material, member).epochs]
        for found, expected in zip((epoch[member] for epoch in epochs), alone, strict=True):
            assert found["learning_rate"] == expected["learning_rate"]
            assert found["penalty.l1"] == pytest.approx(expected["penalty.l1"], rel=1e-3)
            assert found["train.objective"] == pytest.approx(expected["train.objective"], rel=1e-3)
