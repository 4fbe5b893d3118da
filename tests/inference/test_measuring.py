"""What is measured of a model: the ensemble identities, losses in their units, and the temperature."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.asking import ask
from service.inference.decomposition import member_errors, variance_decomposition
from service.inference.measuring import of_answer, temperature
from service.inference.model import Model
from service.inference.pools import Numbers
from service.tricks.modes import Asking

NUMBER = {"task": "regression", "name": "size"}
GAUSSIAN = {"task": "regression", "name": "size", "loss": "gaussian_nll"}
ROWS = np.arange(30)
ALL = Asking(members="all")


def labels(seed: int = 0) -> dict[str, Any]:
    stream = np.random.default_rng(seed)
    return {"kind": stream.integers(0, 3, 30), "size": stream.normal(5, 3, 30)}


# --- the variance of an average -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    k=st.integers(1, 8), rows=st.integers(1, 20), outputs=st.integers(0, 3), seed=st.integers(0, 1000), offset=st.sampled_from([0.0, 5.0])
)
def test_the_error_of_the_mean_is_v_over_k_and_c(k: int, rows: int, outputs: int, seed: int, offset: float) -> None:
    shape = (k, rows, outputs) if outputs else (k, rows)
    errors = np.random.default_rng(seed).normal(offset, 2.0, shape)
    found = variance_decomposition(errors)
    flat = errors.reshape(k, -1)
    assert found["measured_error"] == pytest.approx((flat.mean(0) ** 2).sum() / rows, rel=1e-12)
    assert found["v"] == pytest.approx((flat**2).sum() / rows / k, rel=1e-12)
    # The formula from the uncentred second moments, and the ambiguity decomposition: identities, whatever the errors.
    assert found["v"] / k + (k - 1) / k * found["c"] == pytest.approx(found["measured_error"], rel=1e-10)
    assert found["predicted_error"] == pytest.approx(found["measured_error"], rel=1e-10)
    assert found["mean_member_error"] - found["ambiguity"] == pytest.approx(found["measured_error"], rel=1e-10)
    pairs = [(flat[i] * flat[j]).sum() / rows for i in range(k) for j in range(k) if i != j]
    assert found["c"] == pytest.approx(np.mean(pairs) if pairs else found["v"], rel=1e-10, abs=1e-12)
    # An average is never worse than the average member.
    assert found["ambiguity"] >= 0
    assert found["measured_error"] <= found["mean_member_error"] * (1 + 1e-12)


def test_members_in_another_order() -> None:
    errors = np.random.default_rng(0).normal(size=(5, 9, 2))
    assert variance_decomposition(errors[[3, 1, 4, 0, 2]]) == pytest.approx(variance_decomposition(errors), rel=1e-12)


def test_equal_members_gain_nothing() -> None:
    errors = np.repeat(np.random.default_rng(0).normal(size=(1, 9)), 4, axis=0)
    found = variance_decomposition(errors)
    assert found["c"] == pytest.approx(found["v"], rel=1e-12)
    assert found["measured_error"] == pytest.approx(found["v"], rel=1e-12)
    assert found["ambiguity"] == pytest.approx(0, abs=1e-25)


def test_independent_members_divide_the_error() -> None:
    found = variance_decomposition(np.random.default_rng(0).normal(size=(10, 40_000)))
    assert found["c"] == pytest.approx(0, abs=4 * (2 / 90 / 40_000) ** 0.5)
    assert found["measured_error"] == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(("target", "error"), [(None, "brier"), (NUMBER, "mse"), (GAUSSIAN, "mse")], ids=["classes", "numbers", "gaussian"])
def test_the_formula_gives_the_error_that_is_measured(bench: Any, target: Any, error: str) -> None:
    model, x = bench.model(*([target] if target else []), hidden=[5], size=4), bench.inputs(30)
    wanted = labels()
    wanted["kind"][3] = -1
    wanted["size"][3] = np.nan
    material = bench.material(model, x, wanted)
    (described,) = model.spec.targets
    answer = ask(model, x, ALL.axes(model), keep=True)[described.name]
    name, errors = member_errors(answer, described, material, ROWS)
    found = variance_decomposition(errors)
    assert name == error
    assert errors.shape[:2] == (4, 29), "rows without a label are left out"
    assert found["predicted_error"] == pytest.approx(bench.measure(model, material, ROWS, ALL.axes(model))[error], rel=1e-6)
    each = [bench.measure(model, material, ROWS, Asking(members=i).axes(model))[error] for i in range(4)]
    assert found["v"] == pytest.approx(np.mean(each), rel=1e-6)
    assert bench.measure(model, material, ROWS, ALL.axes(model))[error] <= np.mean(each)


# --- metrics and losses ---------------------------------------------------------------------------------------------


def test_the_metrics_of_classes_are_those_of_the_answer(bench: Any) -> None:
    model, x = bench.model(hidden=[5], size=3), bench.inputs(30)
    material = bench.material(model, x, labels())
    found = bench.measure(model, material, ROWS, ALL.axes(model))
    p = ask(model, x, ALL.axes(model))["kind"].probabilities.numpy()
    nll = -np.log(p[ROWS, labels()["kind"]]).mean()
    assert found["loss"] == found["nll"] == pytest.approx(nll, rel=1e-10)
    assert found["accuracy"] == pytest.approx((p.argmax(1) == labels()["kind"]).mean())
    some = bench.measure(model, material, ROWS[::2], ALL.axes(model))
    assert some["nll"] == pytest.approx(-np.log(p[::2][np.arange(15), labels()["kind"][::2]]).mean(), rel=1e-6)


def test_the_loss_of_numbers_is_in_normalized_units_and_all_else_is_not(bench: Any) -> None:
    """Mean 5 and standard deviation 2 of the target: errors are twice as large in its own unit."""
    model, x = bench.model(NUMBER, hidden=[5]), bench.inputs(30)
    found = bench.measure(model, bench.material(model, x, labels()), ROWS, Asking().axes(model))
    mean = ask(model, x, Asking().axes(model))["size"].mean.numpy()[:, 0]
    assert found["mse"] == pytest.approx(((mean - labels()["size"]) ** 2).mean(), rel=1e-6)
    assert found["loss"] == pytest.approx(found["mse"] / 4, rel=1e-6)
    with torch.no_grad():
        raw = model.networks[0](x)["size"][:, 0].double().numpy()
    assert found["loss"] == pytest.approx(((raw - (labels()["size"] - 5) / 2) ** 2).mean(), rel=1e-5)


def test_the_likelihood_of_numbers_is_that_of_the_original_target(bench: Any) -> None:
    model, x = bench.model(GAUSSIAN, hidden=[5]), bench.inputs(30)
    material = bench.material(model, x, labels())
    found = bench.measure(model, material, ROWS, Asking().axes(model))
    with torch.no_grad():
        losses = model.spec.targets[0].losses(model.networks[0](x)["size"], material.labels["size"])
    assert found["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found["nll"] == pytest.approx(float(losses.mean()) + math.log(2), rel=1e-5)


def test_a_mixture_is_no_worse_than_its_mean_member(bench: Any) -> None:
    model, x = bench.model(GAUSSIAN, hidden=[5], size=5), bench.inputs(30)
    material = bench.material(model, x, labels())
    for row in range(30):
        one = np.array([row])
        mixture = bench.measure(model, material, one, ALL.axes(model))["nll_mixture"]
        each = [bench.measure(model, material, one, Asking(members=i).axes(model))["nll"] for i in range(5)]
        assert mixture <= np.mean(each) + 1e-9


def test_several_targets_have_names_and_a_weighted_loss(bench: Any) -> None:
    kind = {"task": "classification", "name": "kind", "weight": 0.25}
    model, x = bench.model(kind, {**NUMBER, "weight": 3.0}, hidden=[5]), bench.inputs(30)
    found = bench.measure(model, bench.material(model, x, labels()), ROWS, Asking().axes(model))
    assert found["loss"] == pytest.approx(0.25 * found["kind.loss"] + 3 * found["size.loss"], rel=1e-12)
    assert {"kind.accuracy", "kind.auroc", "size.rmse", "size.r2"} <= set(found)


def test_a_row_that_misses_one_of_its_numbers_counts_for_no_metric(bench: Any) -> None:
    model = bench.model(NUMBER)
    (target,) = model.spec.targets
    mean = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    model_material = bench.material(model, bench.inputs(2), {"size": [[3.0, 4.0], [1000.0, np.nan]]})
    answer = Numbers(mean, None, None, None)
    found = of_answer(target, answer, model_material, np.arange(2), model.networks[0].scales[0])
    assert found["mse"] == pytest.approx(12.5)
    assert found["loss"] == pytest.approx(12.5 / 4), "the loss leaves it out as training does"


def test_nothing_is_measured_where_no_label_is_known(bench: Any) -> None:
    for target in ((), (NUMBER,)):
        model, x = bench.model(*target), bench.inputs(30)
        material = bench.material(model, x, {"kind": np.full(30, -1), "size": np.full(30, np.nan)})
        assert {value for value in bench.measure(model, material, ROWS, Asking().axes(model)).values() if value is not None} == set()


# --- temperature ----------------------------------------------------------------------------------------------------


def drawn(true: float, rows: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that were drawn from softmax(logits / true)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 3
    return logits, torch.multinomial((logits / true).softmax(-1), 1, generator=generator).squeeze(1)


def nll(logits: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, y))


@settings(deadline=None, max_examples=40)
@given(true=st.floats(0.3, 5), seed=st.integers(0, 100))
def test_the_temperature_is_stationary(true: float, seed: int) -> None:
    z, y = drawn(true, seed=seed)
    found = temperature(z, y)
    assert found is not None
    p = (z / found).softmax(-1)
    assert abs(float((z.gather(1, y.unsqueeze(1)).squeeze(1) - (p * z).sum(-1)).mean())) < 1e-6
    assert nll(z / found, y) <= nll(z, y)
    assert all(nll(z / found, y) <= nll(z / (found * factor), y) for factor in (0.9, 1.1))
    assert torch.equal((z / found).argmax(-1), z.argmax(-1))


def test_the_temperature_that_made_the_labels_is_found() -> None:
    for true in (0.5, 1.0, 3.0):
        assert temperature(*drawn(true, rows=40_000)) == pytest.approx(true, rel=0.03)


def test_overconfidence_by_a_factor_is_undone() -> None:
    z, y = drawn(1.0)
    assert temperature(z * 7, y) == pytest.approx(7 * temperature(z, y), rel=1e-6)
    y[::5] = -1
    known = y >= 0
    assert temperature(z, y) == temperature(z[known], y[known]), "rows without a label do not count"


@pytest.mark.parametrize("margin", [0.01, 1.0, 5.0, 100.0])
def test_no_temperature_where_the_likelihood_rises_for_ever(margin: float) -> None:
    """All rows are right: the colder the better, whatever underflows on the way."""
    assert temperature(torch.eye(3) * margin, torch.arange(3)) is None


def test_no_temperature_where_the_guesses_are_worse_than_chance() -> None:
    assert temperature(-torch.eye(3), torch.arange(3)) is None
    assert temperature(torch.eye(3), torch.full((3,), -1)) is None


def test_the_best_member_is_asked_for_by_its_index(bench: Any) -> None:
    model, x = bench.model(hidden=[5], size=3), bench.inputs(30)
    material = bench.material(model, x, labels())
    last = Model(model.spec, model.encoding, model.classes, model.networks, 2)
    assert bench.measure(last, material, ROWS, Asking(mode="single").axes(last)) == bench.measure(
        model, material, ROWS, Asking(members=2).axes(model)
    )
