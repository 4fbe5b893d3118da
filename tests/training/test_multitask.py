"""Several heads in training: learned weights, gaps, one head's gradient, and the objective as the sum of its parts."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.test_resume import CPU
from workers.training.checkpointing import pack
from workers.training.objective import WEIGHTS, DataLoss
from workers.training.run import build, start
from workers.training.steps import objective
from workers.training.task import Task

POLICY, VALUE = {"name": "policy"}, {"name": "value", "output": "tanh"}
NET = {"architecture": {"type": "mlp", "hidden": [8]}, "early_stopping": None}


def network_of(made: Any, seed: int = 0) -> Any:
    return build(made, torch.Generator().manual_seed(seed))


def batch(made: Any) -> tuple[Tensor, dict[str, Tensor]]:
    x, labels = made.rows(made.parts.train)
    return x.float(), labels


def gradients(network: Any, loss: Tensor) -> dict[str, Tensor]:
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


# --- learned weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0.2, 5.0])
@pytest.mark.parametrize("task", ["regression", "distribution"])
def test_a_learned_weight_ends_at_the_noise(bench: Any, task: str, wanted: float) -> None:
    """L / (2 s^2) + log s is smallest at s^2 = L, and L / s^2 + log s at s^2 = 2 L (Kendall et al. 2018)."""
    bench.several()
    name = {"regression": "value", "distribution": "policy"}[task]
    made = bench.material("several", targets=[{"name": name, "weight": "learned"}])
    target = made.targets[0]
    log_variance = torch.zeros((), dtype=torch.float64, requires_grad=True)
    total = DataLoss([target], {name: torch.zeros(1, 4)}, {name: log_variance})
    # A loss that does not move: the head says the same whatever it weighs.
    object.__setattr__(target, "loss_of", lambda raw, labels: raw)
    stepper = torch.optim.LBFGS([log_variance], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        stepper.zero_grad()
        loss = total({name: torch.tensor(wanted, dtype=torch.float64)}, {name: torch.zeros(1, 4)})
        loss.backward()
        return loss

    stepper.step(closure)
    assert math.exp(log_variance.item()) == pytest.approx(wanted if task == "regression" else 2 * wanted, abs=1e-5)


def test_learned_weights_move_are_kept_and_nothing_shrinks_them(bench: Any) -> None:
    bench.several()
    common = {"epochs": 3, "batch_size": "full", **NET}
    both = [{**POLICY, "weight": "learned"}, {**VALUE, "weight": "learned"}]
    decayed = bench.material("several", targets=both, optimizer={"type": "adamw", "weight_decay": 0.5}, **common)
    penalized = bench.material("several", targets=both, regularizers=[{"type": "l2", "alpha": 0.5, "parameters": "all"}], **common)
    for made in (decayed, penalized):
        trained = bench.train(made)
        network = trained.run.network
        values = {name: value.item() for name, value in network.log_variances.items()}
        assert all(value != 0 for value in values.values())
        # Three steps of Adam's length from 0: decay or a penalty would have pulled them back to it.
        assert all(abs(value) == pytest.approx(3e-3, rel=0.05) for value in values.values())
        assert {name for name in trained.run.only.best if name.startswith("shares.")} == {"shares.0.log_variance", "shares.1.log_variance"}
        model = bench.model(made, trained)
        assert model.log_variances == pytest.approx(values)
    assert not network_of(bench.material("several", targets=[POLICY, VALUE])).log_variances


def test_a_total_may_be_negative(bench: Any) -> None:
    """Of answers that are right, log s is left: the surer, the lower."""
    bench.several()
    made = bench.material("several", targets=[{**VALUE, "weight": "learned"}])
    network = network_of(made)
    with torch.no_grad():
        network.shares[0].log_variance.fill_(-20.0)
        _, labels = batch(made)
        right = {"value": labels["value"].nan_to_num()}
        assert DataLoss(made.targets, made.labels, network.log_variances)(right, labels).item() == -10.0


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_whatever_a_masked_row_holds_gradients_have_the_same_bits(bench: Any) -> None:
    """NaN, infinity and 1e9 in what is masked, and other inputs' heads as they are."""
    bench.several()
    made = bench.material("several", targets=[POLICY, VALUE, {"name": "kind", "weight": 0.5}], **NET)
    network = network_of(made)
    x, labels = batch(made)
    holes = {**made.labels, "kind": torch.full_like(made.labels["kind"], -1)}
    total, found = DataLoss(made.targets, holes), []
    for held in (0.0, 1e9, math.nan, math.inf, -math.inf):
        changed = {name: values.clone() for name, values in labels.items()}
        for name in ("policy", "value"):
            missing = changed[name].isnan().any(-1)
            changed[name][missing] = held
            changed[name][missing, 0] = math.nan
        changed["kind"][::7] = -1 if held == 0 else -(10**9)
        found.append(gradients(network, total(network(x), changed)))
    assert all(torch.equal(each[name], gradient) for each in found for name, gradient in found[0].items())
    assert all(bool(gradient.isfinite().all()) for gradient in found[0].values())


def test_without_any_label_there_is_no_gradient_and_no_nan(bench: Any) -> None:
    bench.several()
    made = bench.material("several", targets=[POLICY, VALUE], **NET)
    network = network_of(made)
    x, labels = batch(made)
    nothing = {name: torch.full_like(values, math.nan) for name, values in labels.items()}
    loss = DataLoss(made.targets, made.labels)(network(x), nothing)
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(network, loss).values())


def test_one_heads_loss_does_not_touch_another_head(bench: Any) -> None:
    bench.several()
    made = bench.material("several", targets=[POLICY, VALUE], **NET)
    network = network_of(made)
    x, labels = batch(made)
    for place, target in enumerate(made.targets):
        found = gradients(network, DataLoss([target], made.labels)(network(x), labels))
        assert {name.split(".")[1] for name in found if name.startswith("heads.")} == {str(place)}
        assert any(name.startswith("trunk.") for name in found)


# --- sums -----------------------------------------------------------------------------------------------------------


def test_value_policy_and_penalty_add_up_to_the_objective(bench: Any) -> None:
    """(z - v)^2 - pi^T log p + c |theta|^2 (Silver et al. 2017): what an epoch reports is these three, each computed by itself."""
    bench.several()
    made = bench.material(
        "several",
        targets=[POLICY, VALUE],
        regularizers=[{"type": "l2", "alpha": 1e-2, "parameters": "all"}],
        batch_size="full",
        epochs=1,
        optimizer={"type": "sgd", "learning_rate": 1e-9, "momentum": 0.0},
        **NET,
    )
    trained = bench.train(made)
    network = trained.run.network.eval()
    x, labels = batch(made)
    with torch.no_grad():
        raw = network(x)
    p, v = raw["policy"].double().log_softmax(-1).numpy(), raw["value"].double().numpy()
    assert abs(v).max() < 1
    pi, z = labels["policy"].double().numpy(), labels["value"].double().numpy()
    policy = -np.nanmean(np.where(np.isnan(pi).any(1), np.nan, (np.nan_to_num(pi) * p).sum(1)))
    value = np.nanmean((z - v) ** 2)
    size = sum(parameter.double().square().sum().item() for parameter in network.parameters())
    values = trained.epochs[0].values
    assert values["train.loss"] == pytest.approx(policy + value, rel=1e-5)
    assert values["penalty.l2"] == pytest.approx(1e-2 * size, rel=1e-5)
    assert values["train.objective"] == pytest.approx(policy + value + 1e-2 * size, rel=1e-5)
    assert values["validation.loss"] == pytest.approx(values["validation.policy.loss"] + values["validation.value.loss"], rel=1e-6)


def test_tanh_answers_are_bounded_and_not_standardized(bench: Any) -> None:
    bench.several()
    made = bench.material("several", targets=[VALUE, {**POLICY}], epochs=5, **NET)
    assert made.scales[0].mean.item() == 0
    assert made.scales[0].std.item() == 1
    x, _ = batch(made)
    assert network_of(made)(1000 * x)["value"].abs().max().item() <= 1


# --- sample weights -------------------------------------------------------------------------------------------------


def test_rows_of_no_weight_are_as_if_they_were_not_there(bench: Any) -> None:
    """And a row of weight two is one that is there twice."""
    stream = np.random.default_rng(3)
    x, w = stream.normal(size=(90, 2)).round(3), np.tile([0, 1, 2], 30)
    y = (x @ [1.0, -2.0] + stream.normal(size=90)).round(3)
    heavy = bench.table("heavy", {"a": x[:, 0], "b": x[:, 1], "w": w, "y": y})
    rows = np.repeat(np.arange(90), w)
    many = bench.table("many", {"a": x[rows, 0], "b": x[rows, 1], "y": y[rows]})
    same = {"normalize": "none", "normalize_targets": False}
    common = {
        "targets": [{"name": "y"}], "split": {"validation": 0, "test": 0}, "preprocessing": same, "batch_size": "full", "epochs": 400,
        "early_stopping": None, "optimizer": {"type": "sgd", "learning_rate": 0.1, "momentum": 0.0},
    }  # fmt: skip
    weighted = bench.material(heavy, features={"weight": "w"}, **common)
    assert [column.name for column in weighted.encoding.inputs] == ["a", "b"]
    assert WEIGHTS in Task(weighted, start(weighted, (0,), CPU), CPU).batches._labels
    found, expected = (bench.train(made).run.only.best for made in (weighted, bench.material(many, **common)))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    plain = bench.train(bench.material(heavy, features={"drop": ["w"]}, **common)).run.only.best
    assert pack(plain) != pack(found)


@pytest.mark.parametrize("factor", ["1e-42", "1e-310", "1e150"])
def test_only_the_ratios_of_sample_weights_count(bench: Any, factor: str) -> None:
    """However small or large they are: what is beyond float32 trains as weights 1 and 3 do."""
    x = np.random.default_rng(0).normal(size=(24, 2)).round(3)
    table = {"a": x[:, 0], "b": x[:, 1], "y": (x[:, 0] - x[:, 1]).round(3)}
    common = {"targets": [{"name": "y"}], "features": {"weight": "w"}, "split": {"validation": 0.25, "test": 0}, "epochs": 3}
    found = []
    for scale in (1.0, float(factor)):
        name = bench.table(f"scaled-{scale}", {**table, "w": [repr((1 + i % 3) * scale) for i in range(24)]})
        made = bench.material(name, **common)
        assert bool(made.weights.isfinite().all())
        found.append(bench.train(made).run.only.best)
    for key, tensor in found[0].items():
        torch.testing.assert_close(found[1][key], tensor, rtol=1e-4, atol=1e-5)


def test_class_weights_move_the_answer_to_the_rare_class(bench: Any) -> None:
    """Of a constant answer: the fitted probabilities are the weighted shares of the classes."""
    table = {"a": [0.0] * 40, "y": ["rare"] * 4 + ["usual"] * 36}
    name = bench.table("rare", table)
    common = {"split": {"validation": 0, "test": 0}, "batch_size": "full", "epochs": 300, "early_stopping": None,
              "optimizer": {"type": "sgd", "learning_rate": 0.5, "momentum": 0.9}}  # fmt: skip
    for weights, expected in ((None, 0.1), ("balanced", 0.5), ({"rare": 3.0}, 12 / 48)):
        made = bench.material(name, targets=[{"name": "y", "class_weights": weights}], **common)
        network = bench.train(made).run.network.eval()
        with torch.no_grad():
            p = network(torch.zeros(1, 1))["y"].softmax(-1)[0, 0].item()
        assert p == pytest.approx(expected, abs=1e-3)


def test_the_loss_of_a_step_is_that_of_an_epoch_of_one(bench: Any) -> None:
    """A batch's sample weights go with its rows."""
    bench.several()
    made = bench.material("diabetes", targets=[{"name": "target"}], features={"weight": "s4"}, batch_size=64, **NET)
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    found = next(task.batches.walk(task.batches.order(run.streams("order")), 0))
    weights = made.weights[found.rows]
    torch.testing.assert_close(found.labels[WEIGHTS], weights)
    raw = run.network(found.x.float())["target"]
    expected = ((raw - found.labels["target"]).square().squeeze(-1) * weights).sum() / weights.sum()
    torch.testing.assert_close(objective(run.network, task, found.x.float(), found.labels), expected)
