"""The objective through the training loop: scikit-learn's estimators, and descent that is stopped early."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge

from service.inference.material import Material
from service.nets.network import weights_of
from workers.training.loop import train
from workers.training.objective import DataLoss
from workers.training.run import Run, start
from workers.training.task import Task

CPU = torch.device("cpu")
FULL: dict[str, Any] = {"batch_size": "full", "early_stopping": None, "split": {"test": 0.2}}
# Without two of three columns that say the same, descent needs hundreds of steps instead of thousands.
FEWER = {"drop": ["s1", "s2"]}


def design(material: Material) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalized training inputs and labels."""
    rows = torch.from_numpy(material.parts.train)
    x = material.preprocess(torch.from_numpy(material.inputs[material.parts.train]).float())
    return x.double().numpy(), material.labels["target"][rows].double().numpy().ravel()


ALPHA, RIDGE = 0.1, 0.2
# The mean squared error has no half: the objective is twice scikit-learn's, so that its alphas are half of ours.
PENALTIES: dict[str, tuple[dict[str, Any], Any]] = {
    "none": ({}, lambda n: LinearRegression()),
    "l1": ({"type": "l1", "alpha": ALPHA}, lambda n: Lasso(ALPHA / 2, tol=1e-10)),
    "l2": ({"type": "l2", "alpha": RIDGE}, lambda n: Ridge(n * RIDGE)),
    "elastic_net": (
        {"type": "elastic_net", "l1": ALPHA, "l2": RIDGE},
        lambda n: ElasticNet(ALPHA / 2 + RIDGE, l1_ratio=ALPHA / 2 / (ALPHA / 2 + RIDGE), tol=1e-10),
    ),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"type": "sgd", "learning_rate": 0.2, "momentum": 0.0}, "epochs": 500},
    "sgd with momentum": {"optimizer": {"type": "sgd", "learning_rate": 0.05}, "epochs": 400},
    "adam": {"optimizer": {"type": "adam", "learning_rate": 0.05}, "schedule": {"type": "cosine"}, "epochs": 400},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PENALTIES)
def test_a_linear_model_is_scikit_learns(bench: Any, name: str, optimizer: str) -> None:
    penalty, estimator = PENALTIES[name]
    fields = {**FULL, **OPTIMIZERS[optimizer], "features": FEWER, "regularizers": [penalty] if penalty else []}
    material = bench.material("diabetes", **fields)
    trained = bench.train(material)
    x, y = design(material)
    expected = estimator(len(y)).fit(x, y)
    found = trained.run.only.best["heads.0.weight"].double().numpy().ravel()
    np.testing.assert_allclose(found, expected.coef_, rtol=0, atol=1e-4)
    assert float(trained.run.only.best["heads.0.bias"]) == pytest.approx(expected.intercept_, abs=1e-4)
    if "l1" in name or name == "elastic_net":
        assert np.array_equal(found == 0, expected.coef_ == 0)
        assert 0 < (found == 0).sum() < len(found)


def test_biases_are_not_penalized_unless_told(bench: Any) -> None:
    """Targets around 150 in their own unit: however strong the penalty, the mean stays free."""
    free, bound = (
        bench.train(
            bench.material(
                "diabetes",
                **FULL,
                preprocessing={"normalize_targets": False},
                regularizers=[{"type": "l2", "alpha": 1.0, "parameters": which}],
                optimizer={"type": "sgd", "learning_rate": 0.1, "momentum": 0.5},
                epochs=120,
            )
        )
        for which in ("weights", "all")
    )
    material = bench.material("diabetes", **FULL, preprocessing={"normalize_targets": False})
    mean = float(material.originals["target"][material.parts.train].mean())
    assert float(free.run.only.best["heads.0.bias"]) == pytest.approx(mean, rel=1e-5)
    # Of sum (y - b)^2 / n + b^2 the minimum is half the mean; inputs are centred.
    assert float(bound.run.only.best["heads.0.bias"]) == pytest.approx(mean / 2, rel=1e-5)


def test_descent_that_stops_early_is_ridge_per_direction(bench: Any) -> None:
    """theta_i = (1 - (1 - eta lam_i)^tau) w_i, which is ridge with alpha_i = lam_i (1 - eta lam_i)^tau / (1 - (1 - eta lam_i)^tau)."""
    rate, steps = 0.1, 25
    fields = {**FULL, "optimizer": {"type": "sgd", "learning_rate": rate, "momentum": 0.0}, "epochs": 1000, "max_steps": steps}
    material = bench.material("diabetes", **fields)

    def from_zero(run: Run) -> None:
        with torch.no_grad():
            for parameter in run.network.parameters():
                parameter.zero_()

    trained = bench.train(material, prepared=from_zero)
    assert (trained.run.reason, trained.run.step, trained.run.epoch) == ("max_steps", steps, steps)
    x, y = design(material)
    lam, directions = np.linalg.eigh(2 * x.T @ x / len(y))
    optimum = directions.T @ np.linalg.lstsq(x, y - y.mean(), rcond=None)[0]
    left = (1 - rate * lam) ** steps
    alpha = lam * left / (1 - left)
    found = directions.T @ trained.run.only.best["heads.0.weight"].double().numpy().ravel()
    np.testing.assert_allclose(found, (1 - left) * optimum, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, lam / (lam + alpha) * optimum, rtol=0, atol=1e-6)
    assert alpha.max() / alpha.min() > 10, "one alpha for all directions it is not"


@pytest.mark.parametrize("layers", [None, ["*"], ["hidden.1"]])
def test_max_norm_holds_after_every_step(bench: Any, layers: Any) -> None:
    penalty = {"type": "max_norm", "limit": 0.8, **({"layers": layers} if layers else {})}
    architecture = {"type": "mlp", "hidden": [16, 16]}
    material = bench.material(
        "digits", architecture=architecture, regularizers=[penalty], optimizer={"type": "sgd", "learning_rate": 1.0}, epochs=2
    )
    run = start(material, (0,), CPU)
    held = {None: ["hidden.0", "hidden.1"], "*": ["hidden.0", "hidden.1", "head.label"], "hidden.1": ["hidden.1"]}[
        layers[0] if layers else None
    ]
    longest = dict.fromkeys(run.network.layers(), 0.0)
    for _ in train(run, Task(material, run, CPU), tick_s=-1):
        for name, before in longest.items():
            (weight,) = weights_of(run.network, [name], everything=False)
            now = weight.detach().norm(dim=1).max().item()
            longest[name] = max(before, now)
            assert name not in held or now <= 0.8 * (1 + 1e-6)
    assert {name for name, length in longest.items() if length > 0.81} == set(longest) - set(held), "and it had something to hold"


def test_layers_are_chosen_by_pattern(bench: Any) -> None:
    architecture = {"type": "mlp", "hidden": [16, 16]}
    material = bench.material(
        "digits", architecture=architecture, regularizers=[{"type": "l1", "alpha": 0.02, "layers": ["hidden.*"]}], epochs=3
    )
    network = bench.train(material).run.network
    zeros = {name: float((weights_of(network, [name], everything=False)[0] == 0).double().mean()) for name in network.layers()}
    assert zeros["head.label"] == 0
    assert zeros["hidden.0"] > 0.3
    assert zeros["hidden.1"] > 0.1


def test_the_objective_is_the_loss_and_the_penalties(bench: Any) -> None:
    penalties = [{"type": "l2", "alpha": 0.01}, {"type": "l1", "alpha": 0.003, "layers": ["hidden.0"]}, {"type": "max_norm", "limit": 3.0}]
    material = bench.material("digits", architecture={"type": "mlp", "hidden": [8]}, regularizers=penalties, epochs=2, early_stopping=None)
    trained = bench.train(material)
    values = trained.epochs[-1].values
    w = {name: tensor.double() for name, tensor in trained.run.only.best.items() if name.endswith("weight")}
    assert values["penalty.l2"] == pytest.approx(0.01 * sum(float(tensor.square().sum()) for tensor in w.values()), rel=1e-5)
    assert values["penalty.l1"] == pytest.approx(0.003 * float(w["trunk.hidden.0.linear.weight"].abs().sum()), rel=1e-5)
    assert values["penalty.max_norm"] == 0.0
    assert values["train.objective"] == pytest.approx(values["train.loss"] + values["penalty.l2"] + values["penalty.l1"], rel=1e-12)


# --- targets --------------------------------------------------------------------------------------------------------


def two_targets(bench: Any, name: str, *, gaps: float = 0.0) -> str:
    stream = np.random.default_rng(0)
    x = stream.normal(size=(120, 2))
    kind = np.where(x[:, 0] + 0.3 * stream.normal(size=120) > 0, "up", "down").tolist()
    size = (x[:, 1] * 3 + 7).round(3).tolist()
    hidden = stream.random((2, 120)) < gaps
    columns = {
        "a": x[:, 0].round(4),
        "b": x[:, 1].round(4),
        "kind": [None if hide else value for value, hide in zip(kind, hidden[0], strict=True)],
        "size": [None if hide else value for value, hide in zip(size, hidden[1], strict=True)],
    }
    return str(bench.table(name, columns, targets=["kind", "size"]))


def test_the_loss_is_the_weighted_sum_over_targets(bench: Any) -> None:
    targets = [{"name": "kind", "weight": 0.25}, {"name": "size", "weight": 4.0}]
    material = bench.material(two_targets(bench, "two"), targets=targets, architecture={"type": "mlp", "hidden": [6]})
    run = start(material, (0,), CPU)
    x, labels = material.rows(material.parts.train)
    raw = run.network(x)
    total = DataLoss(material.spec.targets, material.labels)(raw, labels)
    kind, size = material.spec.targets
    expected = 0.25 * kind.losses(raw["kind"], labels["kind"]).mean() + 4 * size.losses(raw["size"], labels["size"]).mean()
    torch.testing.assert_close(total, expected)
    gradients = torch.autograd.grad(total, list(run.network.heads.parameters()), retain_graph=True)
    alone = torch.autograd.grad(0.25 * kind.losses(raw["kind"], labels["kind"]).mean(), list(run.network.heads[0].parameters()))
    for found, one in zip(gradients, alone, strict=False):
        torch.testing.assert_close(found, one)


def test_a_target_counts_over_the_rows_that_have_it(bench: Any) -> None:
    material = bench.material(two_targets(bench, "gaps", gaps=0.4), architecture={"type": "mlp", "hidden": [6]}, epochs=3)
    run = start(material, (0,), CPU)
    x, labels = material.rows(material.parts.train)
    raw = run.network(x)
    kind, size = material.spec.targets
    known = {target.name: ~target.missing(labels[target.name]) for target in (kind, size)}
    assert all(0.4 < float(mask.double().mean()) < 0.8 for mask in known.values())
    expected = sum(
        target.losses(raw[target.name][known[target.name]], labels[target.name][known[target.name]]).mean() for target in (kind, size)
    )
    torch.testing.assert_close(DataLoss(material.spec.targets, material.labels)(raw, labels), expected)
    assert all(np.isfinite(bench.train(material).series("validation.loss")))
