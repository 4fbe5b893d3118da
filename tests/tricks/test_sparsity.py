"""L0: hard concrete gates against their closed form and autograd, the projection against sorting."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.flaws import flaws_of
from service.tricks.penalties import L0
from service.tricks.projection import Border
from service.tricks.sparsity import BETA, GAMMA, ZETA, HardConcrete, chances, deterministic

DRAWS = 2_000_000
# log_alpha: P(z != 0), P(z = 1) in closed form.
KNOWN = {-2.0: (0.4010, 0.0266), 0.0: (0.8318, 0.1682), 1.5: (0.9568, 0.4754)}


@pytest.mark.parametrize("log_alpha", KNOWN)
def test_gates_are_hard_concrete(log_alpha: float) -> None:
    """How often a gate is not closed, and how often it is wide open, of two million draws."""
    u = torch.rand(DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hard = HardConcrete(u, torch.zeros_like(u))
    z = hard.draw(torch.tensor(log_alpha, dtype=torch.float64))
    found = float(chances(torch.tensor(log_alpha, dtype=torch.float64)))
    wide = 1 / (1 + math.exp(-(log_alpha - BETA * math.log((1 - GAMMA) / (ZETA - 1)))))
    assert (found, wide) == (pytest.approx(KNOWN[log_alpha][0], abs=5e-5), pytest.approx(KNOWN[log_alpha][1], abs=5e-5))
    for seen, chance in ((z > 0, found), (z == 1, wide)):
        assert abs(float(seen.double().mean()) - chance) < 4 * math.sqrt(chance * (1 - chance) / DRAWS)
    assert bool(((z >= 0) & (z <= 1)).all())


def test_a_gates_slope_is_autograds() -> None:
    log_alpha = torch.linspace(-4, 4, 500, dtype=torch.float64, requires_grad=True)
    u = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    upstream = torch.randn(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    s = ((torch.log(u) - torch.log(1 - u) + log_alpha) / BETA).sigmoid()
    z = (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
    (expected,) = torch.autograd.grad((z * upstream).sum(), log_alpha)
    hard = HardConcrete(u, torch.zeros_like(u))
    torch.testing.assert_close(hard.draw(log_alpha.detach()), z.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hard.slope(upstream), expected, rtol=1e-12, atol=1e-12)
    assert 50 < int((expected == 0).sum()) < 450, "some are held at 0 or 1, and some are not"
    upstream[hard.z == 0] = math.nan
    assert bool(hard.slope(upstream).isfinite().all()), "what is behind a closed gate does not matter"


def test_the_price_of_gates_is_the_expected_number_of_open_ones() -> None:
    penalty = L0(alpha=0.3)
    log_alpha = torch.linspace(-4, 4, 50, dtype=torch.float64, requires_grad=True)
    value = penalty.value([log_alpha, log_alpha[:5]])
    expected = (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()
    assert float(value.detach()) == pytest.approx(0.3 * float((expected.sum() + expected[:5].sum()).detach()), rel=1e-12)
    (slope,) = torch.autograd.grad(penalty.value([log_alpha]), log_alpha)
    hard = HardConcrete(torch.full_like(log_alpha, 0.5).detach(), torch.full_like(log_alpha, 0.3).detach())
    hard.draw(log_alpha.detach())
    found = hard.slope(torch.zeros_like(slope))
    torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-15)


def test_after_training_gates_have_no_temperature() -> None:
    log_alpha = torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0], dtype=torch.float64)
    expected = np.clip(1 / (1 + np.exp(-log_alpha.numpy())) * 1.2 - 0.1, 0, 1)
    np.testing.assert_allclose(deterministic(log_alpha).numpy(), expected, rtol=1e-12, atol=1e-15)
    assert deterministic(log_alpha)[0] == 0
    assert deterministic(log_alpha)[-1] == 1


def largest(w: torch.Tensor, kept: int) -> np.ndarray:
    """All but the largest set to 0, by sorting."""
    values = w.numpy().ravel()
    order = np.argsort(-np.abs(values), kind="stable")[:kept]
    expected = np.zeros_like(values)
    expected[order] = values[order]
    return expected


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 1000), size=st.integers(2, 400), share=st.floats(0.01, 0.99), stir=st.sampled_from([0.0, 0.01, 0.3]))
def test_a_projection_keeps_the_largest(seed: int, size: int, share: float, stir: float) -> None:
    """Whatever is remembered of the last times; also where sizes are equal, of which the first stay."""
    generator = torch.Generator().manual_seed(seed)
    kept = max(1, round(share * size))
    for w in (torch.randn(size, generator=generator), torch.randint(-3, 4, (size,), generator=generator).float()):
        moving, found = w.clone(), torch.empty(1, size)
        border = Border(found, kept)
        for _ in range(4):
            moving += stir * torch.randn(size, generator=generator)
            found.copy_(moving)
            border.project()
            np.testing.assert_array_equal(found.numpy().ravel(), largest(moving, kept))
            again = found.clone()
            border.project()
            assert torch.equal(again, found), "it is idempotent"


def test_a_border_forgets_neighbours_that_moved_away() -> None:
    """First all move a little, then those that were near the border fall to the bottom, and others rise to the top."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(50, 40, generator=generator)
    found = torch.empty_like(w)
    border = Border(found, 200)
    for step in range(30):
        w += 0.01 * torch.randn(w.shape, generator=generator)
        if step % 10 == 9:
            near = (w.abs() / border.edge).log().abs() < 0.1
            w = torch.where(near, 0.01 * w, w * torch.rand(w.shape, generator=generator))
        found.copy_(w)
        border.project()
        np.testing.assert_array_equal(found.numpy().ravel(), largest(w, 200))


@pytest.mark.parametrize("kept", [1, 5, 12, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_what_was_there_before_is_kept_aside(kept: int, dtype: torch.dtype, turned: bool) -> None:
    """Whatever is equal to what, where there are fewer numbers than may stay, and of a tensor that is not side by side in memory."""
    for values in (torch.randn(3, 4), torch.ones(3, 4), torch.arange(12.0).view(3, 4) // 3, torch.eye(3, 4), torch.zeros(3, 4)):
        w = values.to(dtype).t() if turned else values.to(dtype)
        border, dense = Border(w, kept), torch.full((4, 3) if turned else (3, 4), 7.0, dtype=dtype).numpy()
        before = w.clone(memory_format=torch.contiguous_format)
        border.project(dense)
        np.testing.assert_array_equal(dense, before)
        np.testing.assert_array_equal(w.numpy().ravel(), largest(before, kept))
        assert not w.signbit()[w == 0].any()


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-36])
def test_what_is_remembered_changes_no_bit(scale: float) -> None:
    """Of numbers that fade away too, signs of zeros included, and whether the border was right before or far away."""
    values = torch.randn(60, generator=torch.Generator().manual_seed(0)) * scale
    torch.set_flush_denormal(True)
    try:
        found = []
        for edge in (0.0, float(values.abs().sort().values[40]), 7.0, 1e-38):
            w = values.clone()
            border = Border(w, 20)
            border.edge = edge
            border.project()
            found.append(w)
    finally:
        torch.set_flush_denormal(False)
    assert all(w.view(torch.int32).equal(found[0].view(torch.int32)) for w in found)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_what_is_not_a_number_stays(all_of_them: bool) -> None:
    w = torch.full((40,), torch.nan) if all_of_them else torch.randn(40).index_fill_(0, torch.tensor([3, 9]), torch.nan)
    before = w.isnan()
    Border(w, 10).project()
    assert w.isnan().equal(before)


def test_hard_thresholding_finds_the_best_support() -> None:
    """w <- H_k(w - step g) on a separable quadratic: the k coordinates whose loss would grow most without them (Blumensath and Davies)."""
    stream = np.random.default_rng(0)
    optimum = torch.from_numpy(stream.normal(size=(1, 30)).astype(np.float32))
    w = torch.zeros_like(optimum)
    for _ in range(200):
        w -= 0.3 * (w - optimum)
        Border(w, 7).project()
    best = optimum.abs().topk(7).indices
    assert set(w.nonzero()[:, 1].tolist()) == set(best[0].tolist())
    torch.testing.assert_close(w[0, best[0]], optimum[0, best[0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("keep", "weights", "kept"), [(0.5, 9, 4), (1.0, 9, 9), (1, 9, 1), (0.001, 9, 1), (20, 9, 9), (3, 9, 3)])
def test_how_many_stay(keep: float, weights: int, kept: int) -> None:
    assert L0(method="projection", keep=keep).kept(weights) == kept


@pytest.mark.parametrize(
    ("sent", "pointer", "code"),
    [
        ({}, "/alpha", "missing-field"),
        ({"method": "projection"}, "/keep", "missing-field"),
        ({"alpha": 0.1, "keep": 0.5}, "/keep", "inconsistent-spec"),
        ({"method": "projection", "keep": 0.5, "alpha": 0.1}, "/alpha", "inconsistent-spec"),
        ({"alpha": 0.1, "parameters": "all"}, "/parameters", "inconsistent-spec"),
        ({"alpha": 0.1, "initial_drop": 0.0}, "/initial_drop", "value-out-of-range"),
        ({"method": "projection", "keep": 0.0}, "/keep", "value-out-of-range"),
        ({"method": "projection", "keep": 0}, "/keep", "value-out-of-range"),
        ({"method": "projection", "keep": 1.5}, "/keep", "value-out-of-range"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(sent: dict[str, object], pointer: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        L0.model_validate(sent)
    (flaw,) = flaws_of(refused.value, sent, model=L0)
    assert (flaw.pointer, flaw.code) == (pointer, code)
