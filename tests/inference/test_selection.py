"""Selection by what members do for the average on validation, against plain counting; and its weights in an answer."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from service.errors import Invalid
from service.inference import selection
from service.inference.asking import ask, network_weights
from service.inference.deployed import log_mean_probability
from service.inference.material import Material
from service.inference.measuring import Inquiry
from service.inference.model import Model, rebuild, serving
from service.inference.selection import Library, Step, greedy, library_of, select, weights_of
from service.nets.network import Network, NetworkSpec, Scale
from service.spec import TrainSpec
from service.tricks.modes import Asking
from service.tricks.normalization import Normalize
from service.tricks.splits import Parts
from tests.inference.conftest import CLASS, FEATURES, GAUSSIAN, NUMBER
from workers.training.checkpointing import pack

ROWS = 12


def squares(errors: Any) -> float:
    return float((errors**2).mean())


def counted(errors: Any, most: int) -> list[int]:
    """The same rule on lists of members, each average taken anew."""
    chosen: list[int] = []
    while len(chosen) < most:
        losses = [squares(np.mean([errors[i] for i in [*chosen, m]], axis=0)) for m in range(len(errors))]
        m = losses.index(min(losses))
        if chosen and losses[m] >= squares(np.mean([errors[i] for i in chosen], axis=0)) * (1 - 1e-12):
            break
        chosen.append(m)
    return chosen


@pytest.mark.parametrize("seed", range(12))
def test_who_is_added_is_who_helps_most(seed: int) -> None:
    errors = np.random.default_rng(seed).normal(size=(5, 4)) + 0.5
    steps = greedy(Library(errors, squares), most=9)
    assert [step.member for step in steps] == counted(errors, 9)
    for count, step in enumerate(steps, 1):
        assert step.loss == pytest.approx(squares(errors[[each.member for each in steps[:count]]].mean(axis=0)), rel=1e-12)
    assert all(after.loss < before.loss for before, after in itertools.pairwise(steps))
    assert steps[0].loss == min(map(squares, errors))
    if len(steps) == 1:
        pairs = [squares((errors[steps[0].member] + other) / 2) for other in errors]
        assert min(pairs) >= steps[0].loss * (1 - 1e-12)


def test_two_that_err_opposite_ways_are_both_taken_and_a_bad_one_never() -> None:
    errors = np.array([[3.0, 3.0], [1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])
    assert greedy(Library(errors, squares)) == (Step(1, 1.0), Step(2, 0.0))
    assert weights_of(greedy(Library(errors, squares)), 4) == (0.0, 0.5, 0.5, 0.0)


def test_equal_members_are_taken_at_their_first_and_once() -> None:
    errors = np.full((3, 4), 0.1)
    assert greedy(Library(errors, squares)) == (Step(0, squares(errors[0])),)


def test_members_come_again_until_the_bound() -> None:
    errors = np.array([[1.0], [-0.001]])
    near = Library(errors - 0.3, squares)
    steps = greedy(near, most=7)
    assert weights_of(steps, 2) == pytest.approx(
        (len([s for s in steps if s.member == 0]) / len(steps), len([s for s in steps if s.member]) / len(steps))
    )
    assert 2 < len(steps) <= 7
    assert len(greedy(near, most=2)) == 2


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_who_has_no_loss_is_not_taken(lost: float) -> None:
    assert greedy(Library(np.array([[lost], [2.0]]), squares)) == (Step(1, 4.0),)
    assert greedy(Library(np.array([[lost], [lost]]), squares)) == ()


def inquiry_of(bench: Any, *targets: Any, size: int = 4, gaps: Sequence[int] = (), seed: int = 0) -> Inquiry:
    """Random members with labels on validation rows, some of them unknown."""
    model = bench.model(*targets, size=size, seed=seed, hidden=[6], spec={"ensemble": {"size": size, "selection": "greedy"}})
    x, stream = bench.inputs(ROWS), np.random.default_rng(1)
    kind, number = stream.integers(0, 3, ROWS), stream.normal(5, 2, ROWS)
    kind[list(gaps)], number[list(gaps)] = -1, math.nan
    material = bench.material(model, x, {"kind": torch.from_numpy(kind), "size": number})
    return Inquiry(model, replace(material, parts=Parts(np.arange(0), np.arange(ROWS), np.arange(0))))


TARGETS = {
    "class": [CLASS],
    "focal": [{**CLASS, "loss": "focal", "label_smoothing": 0.1, "class_weights": {"a": 1.0, "b": 0.5, "c": 4.0}}],
    "number": [NUMBER],
    "noisy number": [{**NUMBER, "noise_std": 0.3}],
    "size of errors": [{**NUMBER, "loss": "mae"}],
    "huber": [{**NUMBER, "loss": "huber", "delta": 0.2}],
    "quantiles": [{**NUMBER, "loss": "quantile", "quantiles": [0.1, 0.3, 0.9]}],
    "gaussian": [GAUSSIAN],
    "both": [CLASS, {**GAUSSIAN, "weight": 0.3}],
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("gaps", [(), (0, 7)])
def test_the_loss_is_the_metric_of_the_average(bench: Any, targets: list[Any], gaps: Sequence[int]) -> None:
    """Of all alike, of one, and of those that were chosen with their weights."""
    inquiry = inquiry_of(bench, *targets, gaps=gaps)
    said, loss = library_of(inquiry)
    measured = [inquiry.measure("validation", Asking(members=m, weights="equal").axes(inquiry.model))["loss"] for m in ("all", 0, 3)]
    assert [loss(said.mean(axis=0)), loss(said[0]), loss(said[3])] == pytest.approx(measured, rel=1e-6)
    model, steps = select(inquiry)
    assert model.weights is not None
    chosen = Inquiry(model, inquiry.material)
    assert chosen.measure("validation", Asking().axes(model))["loss"] == pytest.approx(steps[-1].loss, rel=1e-6)
    assert steps[-1].loss <= min(loss(own) for own in said)
    shown = selection.report(chosen, steps)
    assert shown["weights"] == list(model.weights)
    assert shown["validation"]["before"]["loss"] == pytest.approx(measured[0], rel=1e-6)
    assert shown["validation"]["after"]["loss"] == pytest.approx(steps[-1].loss, rel=1e-6)
    assert shown["test"] is None


def test_nobody_is_selected_without_labels_or_unasked(bench: Any) -> None:
    blank = inquiry_of(bench, CLASS, gaps=range(ROWS))
    assert select(blank) == (blank.model, ())
    assert selection.report(blank, ()) is None
    whole = inquiry_of(bench, CLASS)
    plain = whole.model.spec.model_copy(update={"ensemble": whole.model.spec.ensemble.model_copy(update={"selection": None})})
    unasked = Inquiry(replace(whole.model, spec=plain), whole.material)
    assert select(unasked) == (unasked.model, ())


@pytest.fixture
def weighed(bench: Any) -> Model:
    return replace(bench.model(CLASS, size=4, hidden=[6], dropout=0.3), weights=(0.25, 0.0, 0.75, 0.0))


def test_weights_of_the_model_are_what_is_asked_by_default(bench: Any, weighed: Model) -> None:
    x = bench.inputs()
    each = np.stack([ask(weighed, x, Asking(members=i).axes(weighed))["kind"].probabilities.numpy() for i in range(4)])
    for asked, weights in (
        ({}, (0.25, 0, 0.75, 0)),
        ({"weights": "equal"}, (0.25,) * 4),
        ({"weights": [1, 2, 3, 4]}, (0.1, 0.2, 0.3, 0.4)),
    ):
        for how in ({}, {"mode": "ensemble"}, {"members": "all"}):
            found = ask(weighed, x, Asking.model_validate({**asked, **how}).axes(weighed))["kind"]
            np.testing.assert_allclose(found.probabilities, np.tensordot(weights, each, 1), rtol=1e-6)
    with pytest.raises(Invalid):
        network_weights(Asking(weights=[1.0, 2.0]).axes(weighed), 4)
    for one in ({"members": 1}, {"mode": "single"}):
        axes = Asking.model_validate(one).axes(weighed)
        assert len(axes.members) == 1
        assert network_weights(axes, 1).tolist() == [1.0]


def test_who_has_no_weight_is_not_asked(bench: Any, weighed: Model) -> None:
    told: list[None] = []
    found = ask(weighed, bench.inputs(), Asking().axes(weighed), keep=True, beat=lambda: told.append(None))["kind"]
    assert found.members.shape[0] == 2
    assert len(told) == 2
    masked = Asking(members="all", dropout="monte_carlo", samples=5).axes(weighed)
    assert masked.members == (0, 2)
    each = [ask(weighed, bench.inputs(), masked._replace(members=(i,), shares=()))["kind"].probabilities for i in (0, 2)]
    torch.testing.assert_close(ask(weighed, bench.inputs(), masked)["kind"].probabilities, 0.25 * each[0] + 0.75 * each[1])


def test_attacks_follow_the_weights(bench: Any, weighed: Model) -> None:
    x, axes = bench.inputs(), Asking().axes(weighed)
    logs = log_mean_probability(weighed, axes, "kind", x)
    np.testing.assert_allclose(logs.exp().numpy(), ask(weighed, x, axes)["kind"].probabilities.numpy(), rtol=1e-5)


def test_weights_are_part_of_the_model(weighed: Model) -> None:
    description = json.loads(json.dumps(weighed.describe()))
    again = rebuild(weighed.spec.dump(), description, pack(weighed.tensors()))
    assert again.weights == weighed.weights
    older = {name: value for name, value in description.items() if name not in ("weights", "numbers")}
    assert rebuild(weighed.spec.dump(), older, pack(weighed.tensors())).weights is None


def test_the_mixture_is_that_of_the_weights(bench: Any) -> None:
    inquiry = inquiry_of(bench, GAUSSIAN)
    weights = (0.5, 0.2, 0.0, 0.3)
    model = replace(inquiry.model, weights=weights)
    found = Inquiry(model, inquiry.material).measure("validation", Asking().axes(model))
    members = inquiry.answers("validation", Asking(members="all").axes(inquiry.model))["size"].members
    truth = inquiry.material.originals["size"]
    densities = norm.pdf(truth, members.mean.numpy(), members.variance.sqrt().numpy())[..., 0]
    assert found["nll_mixture"] == pytest.approx(-np.log(np.tensordot(weights, densities, 1)).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "mse_original"])
def test_a_constant_column_keeps_nobody_from_being_selected(bench: Any, loss: str) -> None:
    """An autoencoder's entries of standard deviation 0 are divided by 1, as in its metric; the loss is that of its own unit."""
    target = {"task": "reconstruction", "name": "input", "loss": loss}
    net = {"type": "autoencoder", "hidden": [6], "code": 2}
    fields = {"dataset": "made", "targets": [target], "architecture": net, "ensemble": {"size": 4, "selection": "greedy"}}
    spec = TrainSpec.model_validate(fields)
    described = NetworkSpec(spec.architecture, (FEATURES,), spec.targets, (FEATURES,))
    normalize = Normalize(torch.full((FEATURES,), 0.5), torch.tensor([2.0, 1.0, 3.0, 0.5]))
    scales = [Scale(torch.full((FEATURES,), 0.5), torch.tensor([2.0, 0.0, 3.0, 0.5]))]
    members = tuple(serving(Network(described, normalize, scales, torch.Generator().manual_seed(i))) for i in range(4))
    model = Model(spec, bench.encoding(), (None,), members, 0)
    x = bench.inputs(ROWS)
    x[:, 1] = 0.5
    parts, labels = Parts(np.arange(0), np.arange(ROWS), np.arange(0)), {"input": torch.empty((ROWS, 0))}
    inquiry = Inquiry(model, Material(spec, described, model.encoding, normalize, tuple(scales), (None,), parts, x.numpy(), labels, {}))
    said, found = library_of(inquiry)
    for members, own in (("all", said.mean(axis=0)), (0, said[0])):
        measured = inquiry.measure("validation", Asking(members=members, weights="equal").axes(model))["loss"]
        assert found(own) == pytest.approx(measured, rel=1e-5)
    chosen, steps = select(inquiry)
    assert steps
    assert chosen.weights is not None
