"""Penalties: what each adds to the objective, and that its steps lead to that objective's minimum."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.tricks.optimization import MOMENTS, SGD, Adam, AdamW, Optimizer
from service.tricks.penalties import L0, L1, L2, ElasticNet, MaxNorm, Regularizer, Share, Tie
from service.tricks.proximal import Metric, Scales

# What each penalty adds to the objective, in numpy.
VALUES: dict[type, tuple[Any, Callable[[Any], float]]] = {
    L1: (L1(alpha=0.3), lambda w: 0.3 * np.abs(w).sum()),
    L2: (L2(alpha=0.3), lambda w: 0.3 * (w**2).sum()),
    ElasticNet: (ElasticNet(l1=0.3, l2=0.7), lambda w: 0.3 * np.abs(w).sum() + 0.7 * (w**2).sum()),
    MaxNorm: (MaxNorm(limit=1.0), lambda w: 0.0),
    L0: (L0(method="projection", keep=0.5), lambda w: 0.0),
    Share: (Share(layers=("a", "b")), lambda w: 0.0),
}


def weights(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A matrix, a filter bank and a matrix of one row."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((4, 3), (2, 3, 2, 2), (1, 5))]


def metric(spec: Any, optimizer: torch.optim.Optimizer, w: Tensor) -> Metric:
    moments = [state[MOMENTS] for state in [optimizer.state[w]] if MOMENTS in state]
    found: Metric = spec.metric(optimizer, Scales([w.detach()], moments))
    return found


def soft(w: Tensor, threshold: Tensor | float) -> Tensor:
    return w.sign() * (w.abs() - threshold).clamp(min=0)


def test_every_penalty_is_in_the_table() -> None:
    assert set(VALUES) | {Tie} == set(get_args(get_args(Regularizer)[0])), "ties have a file of their own"


@pytest.mark.parametrize("kind", VALUES)
def test_value(kind: type) -> None:
    penalty, expected = VALUES[kind]
    found = weights()
    assert float(penalty.value(found)) == pytest.approx(sum(expected(w.numpy()) for w in found), rel=1e-12, abs=1e-12)


def test_decoupled_decay_is_no_part_of_the_objective() -> None:
    assert float(L2(alpha=0.3, decoupled=True).value(weights())) == 0.0


def test_the_gradient_of_l2_is_that_of_its_value() -> None:
    penalty, found = L2(alpha=0.3), [w.requires_grad_(True) for w in weights()]
    expected = torch.autograd.grad(penalty.value(found), found)
    for w in found:
        w.grad = torch.ones_like(w)
    with torch.no_grad():
        penalty.add_gradient(found)
    for w, gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(w.grad, 1 + gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "penalty", [L1(alpha=0.0), L2(alpha=0.0), L2(alpha=0.0, decoupled=True), ElasticNet(l1=0.0, l2=0.0), MaxNorm(limit=100.0)]
)
def test_no_penalty_leaves_every_bit(penalty: Any) -> None:
    found, before = weights(), weights()
    for w in found:
        w.grad = torch.full_like(w, 0.1)
    penalty.add_gradient(found)
    penalty.shrink(found, learning_rate=0.1, metric=Metric(0.1, [torch.ones_like(w) for w in found]))
    assert all(torch.equal(w, b) and bool((w.grad == 0.1).all()) for w, b in zip(found, before, strict=True))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), l1=st.floats(0, 2), l2=st.floats(0, 2))
def test_a_proximal_step_minimizes_distance_and_penalty(seed: int, l1: float, l2: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = weights(seed)
    sizes = [torch.rand(w.shape, generator=generator, dtype=w.dtype) + 0.01 for w in found]
    before = [w.clone() for w in found]
    ElasticNet(l1=l1, l2=l2).shrink(found, learning_rate=9.0, metric=Metric(0.5, [0.5 / size for size in sizes]))
    lasso = [w.clone() for w in before]
    L1(alpha=l1).shrink(lasso, learning_rate=9.0, metric=Metric(0.5, [0.5 / size for size in sizes]))
    for w, first, b, size in zip(found, lasso, before, sizes, strict=True):
        torch.testing.assert_close(first, soft(b, size * l1), rtol=1e-15, atol=2e-15)
        # Stationarity of (u - w)^2 / (2 step) + l1 |u| + l2 u^2: exactly 0, or the subgradient vanishes.
        zero = w == 0
        assert bool((b[zero].abs() <= size[zero] * l1 + 1e-15).all())
        slope = (w - b) / size + l1 * w.sign() + 2 * l2 * w
        assert float(slope[~zero].abs().max()) < 1e-11 if bool((~zero).any()) else True


# Descent to a stationary point, and how fast the step size has to fall for it.
OPTIMIZERS: dict[str, tuple[Any, float]] = {
    "sgd": (SGD(learning_rate=0.05, momentum=0.0), 1.0),
    "sgd with momentum": (SGD(learning_rate=0.005, momentum=0.9), 1.0),
    "sgd with nesterov": (SGD(learning_rate=0.005, momentum=0.9, nesterov=True), 1.0),
    "adam": (Adam(learning_rate=0.05, betas=(0.9, 0.99)), 0.997),
    "adamw": (AdamW(learning_rate=0.05, betas=(0.9, 0.99), weight_decay=0.0), 0.997),
}


def test_every_optimizer_is_in_the_table() -> None:
    assert {type(optimizer) for optimizer, _ in OPTIMIZERS.values()} == set(get_args(get_args(Optimizer)[0]))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("penalty", "minimum"),
    [
        (L1(alpha=0.5), lambda w, h: soft(w, 0.5 / h)),
        (ElasticNet(l1=0.5, l2=0.4), lambda w, h: h * soft(w, 0.5 / h) / (h + 0.8)),
        (L2(alpha=0.4), lambda w, h: h * w / (h + 0.8)),
    ],
    ids=["l1", "elastic_net", "l2"],
)
def test_descent_on_a_separable_quadratic_ends_at_the_minimum(name: str, penalty: Any, minimum: Callable[[Tensor, Tensor], Tensor]) -> None:
    """sum h (w - w*)^2 / 2 + penalty: for l1 sign(w*) max(|w*| - alpha / h, 0), with the same exact zeros."""
    optimum = torch.tensor([[2.0, -1.0, 0.3, -0.2, 0.05, 0.0, -0.7]], dtype=torch.float64)
    curvature = torch.tensor([[1.0, 2.0, 1.0, 4.0, 1.0, 1.0, 0.6]], dtype=torch.float64)
    spec, decay = OPTIMIZERS[name]
    w = torch.full_like(optimum, 0.5).requires_grad_(True)
    optimizer = spec.build([w], [])
    for _ in range(2500):
        w.grad = curvature * (w.detach() - optimum)
        with torch.no_grad():
            penalty.add_gradient([w])
            optimizer.step()
            penalty.shrink([w], learning_rate=0.0, metric=metric(spec, optimizer, w) if penalty.proximal else None)
        optimizer.param_groups[0]["lr"] *= decay
    expected = minimum(optimum, curvature)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-5)
    if penalty.proximal:
        assert torch.equal(w.detach() == 0, expected == 0)


def test_adams_proximal_step_has_the_length_of_its_own_step() -> None:
    """Per coordinate lr / (sqrt(v_hat) + eps): what multiplies m_hat in Adam's update."""
    spec = Adam(learning_rate=0.03, betas=(0.8, 0.95))
    w = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    optimizer = spec.build([w], [])
    for count in range(1, 6):
        before = w.detach().clone()
        w.grad = torch.randn(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(count))
        optimizer.step()
        found = metric(spec, optimizer, w)
        size = found.length / found.scales[0]
        state = optimizer.state[w]
        torch.testing.assert_close(size, 0.03 / ((state["exp_avg_sq"] / (1 - 0.95**count)).sqrt() + 1e-8), rtol=1e-12, atol=0)
        torch.testing.assert_close(before - w.detach(), size * state["exp_avg"] / (1 - 0.8**count), rtol=1e-9, atol=1e-12)
    assert float(size.max() / size.min()) > 1.5, "a threshold per coordinate, not one for all"


def one_step(optimizer: Any, penalty: Any | None) -> float:
    """Where a weight of 1 goes in one step without a data gradient."""
    w = torch.ones(1, 1, requires_grad=True)
    built = optimizer.build([w], [])
    w.grad = torch.zeros_like(w)
    with torch.no_grad():
        if penalty is not None:
            penalty.add_gradient([w])
        built.step()
        if penalty is not None:
            penalty.shrink([w], learning_rate=built.param_groups[0]["lr"])
    return float(w.detach())


def test_decoupled_and_coupled_decay_of_a_resting_weight() -> None:
    adam, sgd = Adam(learning_rate=0.1), SGD(learning_rate=0.1, momentum=0.0)
    assert one_step(AdamW(learning_rate=0.1, weight_decay=0.5), None) == pytest.approx(0.95, abs=1e-6)
    assert one_step(adam, L2(alpha=0.5, decoupled=True)) == pytest.approx(0.95, abs=1e-6)
    assert one_step(adam, L2(alpha=0.25)) == pytest.approx(0.90, abs=1e-6), "Adam makes a full step of any gradient"
    # Under plain descent both are the same, 2 alpha w being the gradient of alpha w^2.
    assert one_step(sgd, L2(alpha=0.25)) == pytest.approx(one_step(sgd, L2(alpha=0.5, decoupled=True)), abs=1e-7)


limits = st.integers(1, 3000).map(lambda n: n / 100)


def longest(w: Tensor) -> float:
    return float(w.double().flatten(1).norm(dim=1).max())


@settings(deadline=None, max_examples=100)
@given(limit=limits, seed=st.integers(0, 1000), size=st.floats(0.01, 30))
def test_max_norm_projects_the_rows(limit: float, seed: int, size: float) -> None:
    found = [w * size for w in weights(seed, torch.float32)]
    before = [w.clone() for w in found]
    MaxNorm(limit=limit).shrink(found, learning_rate=0.1)
    for w, b in zip(found, before, strict=True):
        assert longest(w) <= limit * (1 + 5e-7)
        lengths = b.double().flatten(1).norm(dim=1)
        factors = torch.where(lengths > limit, limit / lengths, 1.0).view(-1, *[1] * (b.ndim - 1))
        # torch.renorm divides by the length plus 1e-7.
        torch.testing.assert_close(w.double(), b.double() * factors, rtol=1e-6, atol=2e-7)
    again = [w.clone() for w in found]
    MaxNorm(limit=limit).shrink(again, learning_rate=0.1)
    for w, a in zip(found, again, strict=True):
        torch.testing.assert_close(a, w, rtol=3e-7, atol=2e-7)


@settings(deadline=None, max_examples=100)
@given(limit=limits, seed=st.integers(0, 1000))
def test_max_norm_is_the_identity_inside_the_ball(limit: float, seed: int) -> None:
    """To the bit: a unit in the last place at every step would be a decay of its own."""
    w = weights(seed, torch.float32)[0]
    w = w * (0.9 * limit / longest(w))
    before = w.clone()
    MaxNorm(limit=limit).shrink([w], learning_rate=0.1)
    assert torch.equal(w, before)


@settings(deadline=None, max_examples=60)
@given(limit=limits, seed=st.integers(0, 1000))
def test_max_norm_is_not_expansive(limit: float, seed: int) -> None:
    a, b = weights(seed)[0] * 5, weights(seed + 1)[0] * 5
    apart = (a - b).norm(dim=1)
    MaxNorm(limit=limit).shrink([a, b], learning_rate=0.1)
    assert bool(((a - b).norm(dim=1) <= apart * (1 + 1e-12)).all())


def test_max_norm_leaves_biases_alone() -> None:
    weight, bias = torch.full((4, 2), 100.0), torch.full((4,), 100.0)
    MaxNorm(limit=1.0).shrink([weight, bias], learning_rate=0.1)
    assert torch.equal(bias, torch.full((4,), 100.0))
    torch.testing.assert_close(weight, torch.full((4, 2), 0.5**0.5))
