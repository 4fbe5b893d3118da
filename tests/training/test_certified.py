"""Training on interval bounds: its formula, its ramp, how weights begin, and that what it promises is measured."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import Invalid
from service.inference.certifying import verified
from service.inference.robustness import Subject
from service.nets import bounds
from service.nets.intervals import Interval
from service.resolving import resolve
from service.settings import Settings
from service.tricks.attacks import PGD
from service.tricks.certification import IBPTraining
from service.tricks.modes import Asking
from tests.training.test_exporting import JOBS, datasets
from tests.training.test_exporting import made as exportable
from workers.training.adversary import objective
from workers.training.run import start
from workers.training.task import Task

__all__ = ["datasets"]  # a fixture
CPU = torch.device("cpu")
NET: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12, 8]}, "epochs": 3, "batch_size": 64}
IBP = {"method": "ibp", "epsilon": 1.0}


def worst_by_hand(network: Any, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Interval bounds in corners, [W]+ l + [W]- u, and each difference of logits from the last layer's rows, one row at a time."""
    low, high = (network.preprocess(part).flatten(1) for part in (low, high))
    for layer in network.trunk.hidden:
        w, b = layer.linear.weight, layer.linear.bias
        ends = low @ w.clamp(min=0).T + high @ w.clamp(max=0).T + b, high @ w.clamp(min=0).T + low @ w.clamp(max=0).T + b
        low, high = (end.relu() for end in ends)
    head = network.heads[0]
    found = []
    for row in range(len(low)):
        apart = head.weight - head.weight[y[row]]
        found.append(apart.clamp(min=0) @ high[row] + apart.clamp(max=0) @ low[row] + head.bias - head.bias[y[row]])
    return torch.stack(found)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.0), (0.325, 0.5), (0.55, 1.0), (1.0, 1.0)])
def test_the_objective_is_its_formula(bench: Any, progress: float, share: float) -> None:
    """Value and gradient by hand; boxes end at what the training rows span."""
    made = bench.material("digits", **NET, adversarial_training={**IBP, "weight": 0.6})
    run = start(made, (0,), CPU)
    x, labels = made.rows(made.parts.train[:64])
    x, y, network = x.float(), labels["label"], run.network.train()
    found = objective(network, Task(made, run, CPU), x, labels, run.members, progress=progress)
    kappa = 1 - 0.6 * share
    worst = worst_by_hand(network, (x - share).clamp(min=0), (x + share).clamp(max=16), y)
    expected = kappa * F.cross_entropy(network(x)["label"], y) + (1 - kappa) * F.cross_entropy(worst, y)
    torch.testing.assert_close(found, expected)
    parameters = list(network.parameters())
    for own, wanted in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6)


def test_the_ramp_is_a_straight_line_between_two_shares_of_the_steps() -> None:
    rule = IBPTraining(epsilon=1.0, warmup=0.2, ramp=0.5)
    assert [rule.ramped(step / 10) for step in range(11)] == pytest.approx([0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert [IBPTraining(epsilon=1.0, warmup=0.0, ramp=0.0).ramped(at) for at in (0.0, 0.5)] == [1.0, 1.0]
    assert [IBPTraining(epsilon=1.0, warmup=0.5, ramp=0.0).ramped(at) for at in (0.49, 0.5)] == [0.0, 1.0]


def test_weights_begin_as_in_shi_et_al(bench: Any) -> None:
    """With a deviation of sqrt(2 pi) / inputs a box's width neither grows nor dies from layer to layer."""
    net = {"architecture": {"type": "mlp", "hidden": [300, 300, 300]}}
    made = bench.material("digits", **net, adversarial_training=IBP)
    network, other = made.initial(0), made.initial(1)
    inputs = 64
    for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 * math.pi) / inputs, rel=0.06)
        assert not bool(layer.bias.any())
        inputs = layer.out_features
    assert not torch.equal(network.heads[0].weight, other.heads[0].weight)
    assert torch.equal(network.heads[0].weight, made.initial(0).heads[0].weight)
    plain = bench.material("digits", **net).initial(0)
    kept = bench.material("digits", **net, adversarial_training={**IBP, "initialization": "architecture"}).initial(0)
    assert torch.equal(plain.heads[0].weight, kept.heads[0].weight)
    widths: dict[str, list[float]] = {}
    for name, each in (("ibp", network), ("torch", plain)):
        width = torch.ones(1, 64)
        widths[name] = [float((width := width @ hidden.linear.weight.detach().abs().T / 2).mean()) for hidden in each.trunk.hidden]
    assert all(0.8 < after / before < 1.25 for before, after in pairwise(widths["ibp"]))
    assert all(after / before > 3 for before, after in pairwise(widths["torch"]))


def test_with_nothing_in_it_it_is_plain_training(bench: Any) -> None:
    fields = {**NET, "early_stopping": None}
    plain = bench.train(bench.material("digits", **fields))
    for nothing in ({"weight": 0.0}, {"warmup": 1.0}):
        made = bench.material("digits", **fields, adversarial_training={**IBP, "initialization": "architecture", **nothing})
        assert bench.train(made).weights == plain.weights


@pytest.mark.parametrize("net", [{"batch_norm": False}, {"batch_norm": True, "dropout": 0.2}], ids=["plain", "normed"])
def test_rows_are_verified_that_plain_training_leaves_open(bench: Any, net: dict[str, Any]) -> None:
    fields = {"architecture": {"type": "mlp", "hidden": [48], **net}, "epochs": 12, "early_stopping": None}
    shares, clean = {}, {}
    for name, training in (("plain", None), ("ibp", {**IBP, "weight": 0.5})):
        made = bench.material("digits", **fields, adversarial_training=training)
        model = bench.model(made, bench.train(made))
        x, labels = made.rows(made.parts.test)
        subject = Subject(model, Asking().axes(model), x.float(), labels["label"])
        (held,) = verified(subject, [PGD(epsilon=0.0)], [1.0])
        standing = subject.attack(PGD(epsilon=1.0, steps=20)).standing
        assert not bool((torch.tensor(held) & ~standing).any())
        shares[name], clean[name] = sum(held) / len(held), float(subject.right.float().mean())
    assert shares["ibp"] > 0.4
    assert shares["plain"] < 0.2
    assert clean["ibp"] > 0.9


def test_the_monitor_is_the_loss_of_the_worst_case(bench: Any) -> None:
    made = bench.material("digits", **NET, adversarial_training=IBP, early_stopping={"monitor": "adversarial_loss"})
    run = start(made, (0,), CPU)
    (found,) = Task(made, run, CPU).evaluate(run.network)
    x, labels = made.rows(made.parts.validation)
    worst = worst_by_hand(run.network, (x.float() - 1).clamp(min=0), (x.float() + 1).clamp(max=16), labels["label"])
    assert found["adversarial_loss"] == pytest.approx(float(F.cross_entropy(worst.detach(), labels["label"])), rel=1e-5)
    assert found["adversarial_loss"] > found["loss"]


def test_numbers_are_bounded_at_their_farther_end(bench: Any) -> None:
    """Of a linear model an output's interval is what its weights make of the room above and below each input."""
    made = bench.material("diabetes", adversarial_training={**IBP, "epsilon": 0.01, "weight": 1.0}, batch_size=64)
    run = start(made, (0,), CPU)
    x, labels = made.rows(made.parts.train[:64])
    x, network, task, y = x.float(), run.network.train(), Task(made, run, CPU), labels["target"]
    above, below = (task.box.inside(x, x + 0.01) - x, x - task.box.inside(x, x - 0.01))
    said, weight = network(x)["target"], network.heads[0].weight / network.preprocess.scale
    up = above @ weight.clamp(min=0).T + below @ weight.clamp(max=0).abs().T
    down = below @ weight.clamp(min=0).T + above @ weight.clamp(max=0).abs().T
    assert float((up - down).detach().abs().max()) > 0.001, "some inputs lie at an end of what the training rows span"
    expected = torch.maximum((said + up - y).abs(), (said - down - y).abs()).square().mean()
    torch.testing.assert_close(objective(network, task, x, labels, run.members), expected, rtol=1e-4, atol=1e-6)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("diabetes", {"targets": [{"name": "target", "loss": "gaussian_nll"}]}),
    ("diabetes", {"targets": [{"name": "target", "loss": "quantile"}]}),
    ("digits", {"architecture": {"type": "autoencoder", "code": 3}, "targets": [{"name": "input", "task": "reconstruction"}]}),
    ("digits", {"augmentation": [{"type": "mixup"}]}),
]


@pytest.mark.parametrize(("dataset", "fields"), REFUSED)
def test_what_has_no_bounds_is_refused(bench: Any, dataset: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as found:
        bench.material(dataset, **{"architecture": {"type": "mlp", "hidden": [4]}, **fields}, adversarial_training=IBP)
    assert ("/adversarial_training/method", "inconsistent-spec") in {(flaw.pointer, flaw.code) for flaw in found.value.flaws}


def test_without_being_asked_nothing_stops_it_early(bench: Any) -> None:
    """The best epoch on clean rows is one without bounds."""
    raw = {"dataset": "digits", **NET, "adversarial_training": IBP}
    assert resolve(raw, bench._source, Settings()).spec["early_stopping"] is None
    asked = resolve({**raw, "early_stopping": {"monitor": "adversarial_loss"}}, bench._source, Settings())
    assert asked.spec["early_stopping"]["monitor"] == "adversarial_loss"
    assert ("/early_stopping", "stops-before-bounds") in [(flaw.pointer, flaw.code) for flaw in asked.warnings]


NORMED: list[dict[str, Any]] = [
    {"type": "convolution", "channels": 4},
    {"type": "layer_norm"},
    {"type": "max_pool"},
    {"type": "unpool", "of": "max_pool.0"},
    {"type": "transposed_convolution", "channels": 3, "kernel": 4, "stride": 2},
    {"type": "activation"},
    {"type": "flatten"},
    {"type": "linear", "width": 6},
    {"type": "layer_norm"},
]


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_bounds_of_every_named_layer_have_slopes(bench: Any, epsilon: float) -> None:
    """Also for a box of one point, as training begins with, where roots of variances have none."""
    layers = {"type": "layers", "layers": NORMED}
    made = bench.material("digits", architecture=layers, adversarial_training={**IBP, "epsilon": epsilon, "weight": 1.0}, batch_size=16)
    run = start(made, (0,), CPU)
    x, labels = made.rows(made.parts.train[:16])
    objective(run.network.train(), Task(made, run, CPU), x.float(), labels, run.members).backward()
    slopes = [parameter.grad for parameter in run.network.parameters()]
    assert all(slope is not None and bool(slope.isfinite().all()) for slope in slopes)
    assert sum(float(slope.abs().max()) > 0 for slope in slopes) > len(slopes) - 2


@pytest.mark.parametrize("name", JOBS)
def test_every_network_has_bounds(datasets: Any, name: str) -> None:
    """A job that verifies or trains on bounds never meets one that has none; those of one row are what the network says."""
    model, x = exportable(datasets, name, size=1)
    network, x = model.precise(0), x.double()
    said, found = network(x), bounds.bounds(network, Interval(x, torch.zeros_like(x)))
    wide = bounds.bounds(network, Interval(x, torch.full_like(x, 0.1)))
    for target, raw in said.items():
        for end in (found[target].low, found[target].high):
            torch.testing.assert_close(end, raw, rtol=1e-12, atol=1e-12)
        assert bool((wide[target].low <= raw + 1e-12).all())
        assert bool((raw <= wide[target].high + 1e-12).all())
