"""The loss that adversarial training follows: each method's formula, and plain training where nothing is left of it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.inference.robustness import Subject
from service.tricks.attacks import FGSM, PGD
from service.tricks.divergence import divergence
from service.tricks.modes import Asking
from workers.training.adversary import objective
from workers.training.checkpointing import pack
from workers.training.run import Run, start
from workers.training.task import Task

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12]}, "epochs": 3, "batch_size": 256}
NOTHING: list[dict[str, Any]] = [
    {"method": "fgsm", "epsilon": 0.0, "weight": 1.0},
    {"method": "fgsm", "epsilon": 3.0, "weight": 0.0},
    {"method": "pgd", "epsilon": 0.0, "steps": 2},
    {"method": "fast", "epsilon": 3.0, "weight": 0.0},
    {"method": "trades", "epsilon": 3.0, "beta": 0.0},
    {"method": "vat", "epsilon": 3.0, "weight": 0.0},
    {"method": "noise", "std": 0.0},
]
NORMED = {"type": "mlp", "hidden": [12], "batch_norm": True, "dropout": 0.5}


def begun(bench: Any, training: dict[str, Any], dataset: str = "digits", **fields: Any) -> tuple[Any, Run, Task, Tensor, dict[str, Tensor]]:
    """A run at its first step, and a batch."""
    made = bench.material(dataset, **{**SMALL, **fields}, adversarial_training=training)
    run = start(made, (0,), CPU)
    run.network.train()
    x, labels = made.rows(made.parts.train[:64])
    return made, run, Task(made, run, CPU), x.float(), labels


@pytest.mark.parametrize("training", NOTHING, ids=lambda training: " ".join(map(str, training.values())))
def test_adversarial_training_with_nothing_in_it_is_plain_training(bench: Any, training: dict[str, Any]) -> None:
    net = {"architecture": NORMED}
    plain = bench.train(bench.material("digits", **{**SMALL, **net}))
    trained = bench.train(bench.material("digits", **{**SMALL, **net}, adversarial_training=training))
    assert trained.weights == plain.weights


@pytest.mark.parametrize("method", ["fgsm", "pgd", "fast", "trades"])
def test_adversarial_training_resists_what_it_was_trained_on(bench: Any, method: str) -> None:
    fields = {"architecture": {"type": "mlp", "hidden": [32]}, "epochs": 30 if method == "fgsm" else 20, "early_stopping": None}
    standing = {}
    steps = {"steps": 3} if method in ("pgd", "trades") else {}
    for name, training in (("plain", None), ("trained", {"method": method, "epsilon": 2.0, **steps})):
        made = bench.material("digits", **fields, adversarial_training=training)
        model = bench.model(made, bench.train(made))
        x, labels = made.rows(made.parts.test)
        subject = Subject(model, Asking().axes(model), x, labels["label"])
        standing[name] = float(subject.attack(FGSM(epsilon=2.0) if method == "fgsm" else PGD(epsilon=2.0, steps=10))[1].double().mean())
    assert standing["trained"] > standing["plain"] + 0.2


@pytest.mark.parametrize("training", [{"method": "fgsm", "weight": 1.0}, {"method": "pgd", "steps": 2}, {"method": "trades", "steps": 2}])
def test_the_attack_sees_the_network_as_it_is_served(bench: Any, training: dict[str, Any]) -> None:
    """Without dropout and on running statistics: a perturbation draws no mask and moves no statistic."""
    made, run, task, x, labels = begun(bench, {"epsilon": 1.0, **training}, architecture=NORMED)
    twin = start(made, (0,), CPU)
    loss = objective(run.network, task, x, labels, run.members)
    # By hand: perturb with the served network, then passes with masks from the same stream.
    served, rule, streams = twin.network.eval(), made.spec.adversarial_training, twin.streams("adversarial")
    gate = Task(made, twin, CPU).gate
    if training["method"] == "trades":
        anchor = served(x)["label"].detach().log_softmax(-1)
        moved = rule.perturb(x, lambda rows: _kl(anchor, served(rows)["label"].log_softmax(-1)), None, streams)
        twin.network.train()
        clean, other = (twin.network(rows, gate)["label"] for rows in (x, moved))
        expected = F.cross_entropy(clean, labels["label"]) + 6 * _kl(clean.log_softmax(-1), other.log_softmax(-1))
    else:
        moved = rule.perturb(x, lambda rows: task.loss(served(rows), labels), None, streams)
        twin.network.train()
        expected = task.loss(twin.network(moved, gate), labels)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert pack(run.network.learned()) == pack(twin.network.learned()), "running statistics moved once for each pass that learns"
    for name in ("masks", "adversarial"):
        assert torch.equal(run.only.streams[name].get_state(), twin.only.streams[name].get_state())
    assert run.network.training


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


FORMULAS: list[dict[str, Any]] = [
    {"method": "fgsm", "weight": 0.3, "epsilon": 1.0},
    {"method": "fgsm", "weight": 1.0, "epsilon": 1.0},
    {"method": "fgsm", "weight": 0.3, "epsilon": 3.0, "norm": "l2"},
    {"method": "pgd", "weight": 0.3, "epsilon": 1.0},
    {"method": "fast", "weight": 0.3, "epsilon": 1.0},
    {"method": "noise", "weight": 0.3, "std": 2.0},
    {"method": "trades", "beta": 4.0, "epsilon": 1.0},
    {"method": "vat", "weight": 2.0, "epsilon": 6.0, "norm": "l2"},
]


@pytest.mark.parametrize("training", FORMULAS, ids=lambda training: " ".join(map(str, training.values())))
def test_the_objective_is_its_formula(bench: Any, training: dict[str, Any]) -> None:
    """Value and gradient, by hand in plain torch; no gradient flows through moved rows, nor of VAT through what is said of clean ones."""
    made, run, task, x, labels = begun(bench, training)
    network, rule, y = run.network, made.spec.adversarial_training, labels["label"]
    parameters = list(network.parameters())
    twin = start(made, (0,), CPU)

    def plain(rows: Tensor) -> Tensor:
        return F.cross_entropy(network(rows)["label"], y)

    def said(rows: Tensor) -> Tensor:
        return network(rows)["label"].log_softmax(-1)

    smooth = training["method"] in ("trades", "vat")
    raised = (lambda rows: _kl(said(x).detach(), said(rows))) if smooth else plain
    moved = rule.perturb(x, raised, None, twin.streams("adversarial"))
    if smooth:
        anchor = said(x).detach() if training["method"] == "vat" else said(x)
        expected = plain(x) + rule.factor * _kl(anchor, said(moved))
    else:
        expected = rule.weight * plain(moved) + (1 - rule.weight) * plain(x)
    wanted = torch.autograd.grad(expected, parameters)
    found = objective(network, task, x, labels, run.members)
    torch.testing.assert_close(found, expected)
    found.backward()
    for parameter, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert float(raised(moved).detach()) > float(raised(x).detach()) or training["method"] == "noise"


def test_gaussians_are_smoothed_by_their_divergence(bench: Any) -> None:
    target = {"targets": [{"name": "target", "loss": "gaussian_nll"}]}
    training = {"method": "trades", "epsilon": 0.5, "steps": 2, "beta": 3.0}
    made, run, task, x, labels = begun(bench, training, "diabetes", **target, batch_size=64)

    def normal(rows: Tensor) -> torch.distributions.Normal:
        mean, spread = run.network(rows)["target"].chunk(2, dim=-1)
        return torch.distributions.Normal(mean, (F.softplus(spread) + 1e-6).sqrt())

    def away(rows: Tensor) -> Tensor:
        return torch.distributions.kl_divergence(normal(x), normal(rows)).mean()

    moved = made.spec.adversarial_training.perturb(x, away, task.movable, start(made, (0,), CPU).streams("adversarial"))
    expected = -normal(x).log_prob(labels["target"]).mean() + 3 * away(moved)
    torch.testing.assert_close(objective(run.network, task, x, labels, run.members), expected, rtol=1e-4, atol=1e-5)


def test_rows_without_labels_count_in_the_divergence(bench: Any) -> None:
    made, run, task, _, _ = begun(bench, {"method": "vat", "epsilon": 0.5}, bench.gappy(), batch_size=32, targets=[{"name": "kind"}])
    x, labels = made.rows(made.parts.train)
    missing = labels["kind"] < 0
    assert missing.any()
    assert not missing.all()
    only = objective(run.network, task, x[missing], {name: values[missing] for name, values in labels.items()}, run.members)
    assert float(only.detach()) > 0, "no label, and still a loss"


def test_targets_whose_weight_is_learned_count_once_in_the_divergence(bench: Any) -> None:
    targets = [{"name": "kind", "weight": "learned"}, {"name": "size", "loss": "gaussian_nll", "weight": 0.5}]
    training = {"method": "trades", "epsilon": 0.3, "steps": 2, "beta": 2.0}
    made, run, task, _, _ = begun(bench, training, bench.gappy(), batch_size=32, targets=targets)
    x, labels = made.rows(made.parts.train)
    moved = made.spec.adversarial_training.perturb(
        x, lambda rows: _apart(made, run, x, rows), None, start(made, (0,), CPU).streams("adversarial")
    )
    expected = task.loss(run.network(x), labels) + 2 * _apart(made, run, x, moved)
    torch.testing.assert_close(objective(run.network, task, x, labels, run.members), expected, rtol=1e-4, atol=1e-5)


def _apart(made: Any, run: Run, x: Tensor, moved: Tensor) -> Tensor:
    clean, other = run.network(x), run.network(moved)
    parts = [divergence(target, clean[target.name], other[target.name]).mean() for target in made.targets]
    return parts[0] + 0.5 * parts[1]


def test_numbers_are_moved_by_their_squared_error(bench: Any) -> None:
    for training in ({"method": "fgsm"}, {"method": "pgd", "steps": 2}, {"method": "fast"}):
        _, run, task, x, labels = begun(bench, {"epsilon": 0.5, "weight": 1.0, **training}, "diabetes", batch_size=64)
        assert float(objective(run.network, task, x, labels, run.members).detach()) > float(task.loss(run.network(x), labels).detach())


def test_the_training_loss_is_what_is_minimized(bench: Any) -> None:
    """At a learning rate of next to nothing, in one full batch: the mix at the weights of the start."""
    training = {"method": "fgsm", "epsilon": 1.0, "weight": 0.3}
    still = {"batch_size": "full", "max_steps": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-12}}
    made = bench.material("digits", **{**SMALL, **still}, adversarial_training=training)
    done = bench.train(made)
    x, labels = made.rows(made.parts.train)
    run = start(made, (0,), CPU)
    expected = objective(run.network, Task(made, run, CPU), x.float(), labels, run.members)
    assert done.series("train.loss")[0] == pytest.approx(float(expected.detach()), rel=1e-5)
