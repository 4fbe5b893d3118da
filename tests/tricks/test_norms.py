"""Norms: steepest directions, projections, and noise that is uniform in the ball."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.tricks.draws import Common, Draws, OfRows
from service.tricks.norms import NORMS

N = 40


def rows(seed: int = 0) -> Tensor:
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(norm=st.sampled_from(sorted(NORMS)), seed=st.integers(0, 1000), epsilon=st.floats(0.01, 5))
def test_projection_and_direction(norm: Any, seed: int, epsilon: float) -> None:
    ball, delta, other = NORMS[norm], rows(seed).double() * 3, rows(seed + 1).double()
    near = ball.project(delta, epsilon)
    assert bool((ball.length(near) <= epsilon * (1 + 1e-12)).all())
    torch.testing.assert_close(ball.project(near, epsilon), near, rtol=1e-12, atol=0)
    inside = ball.length(delta) <= epsilon
    assert torch.equal(near[inside], delta[inside])
    # The nearest point of a convex set sees every other of its points under an obtuse angle.
    point = ball.project(other, epsilon)
    assert bool((((delta - near) * (point - near)).sum(1) <= 1e-9).all())
    step = ball.direction(other)
    torch.testing.assert_close(ball.length(step), torch.ones(N, dtype=torch.float64), rtol=1e-9, atol=0)
    gain = {"linf": other.abs().sum(1), "l2": other.norm(dim=1), "l1": other.abs().amax(1)}[norm]
    torch.testing.assert_close(ball.dual(other), gain, rtol=1e-12, atol=0)
    torch.testing.assert_close((step * other).sum(1), gain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("draws", [Common(torch.Generator().manual_seed(0)), OfRows.numbered(0, torch.arange(20_000))])
@pytest.mark.parametrize("norm", NORMS)
def test_uniform_noise_is_uniform_in_the_ball(norm: Any, draws: Draws) -> None:
    """A ball of a share r of the radius holds r^d of the noise."""
    x = torch.zeros(20_000, 3)
    delta = NORMS[norm].sample(x, 2.0, draws)
    for share in (0.3, 0.5, 0.8):
        p = share**3
        inside = float((NORMS[norm].length(delta) <= 2.0 * share).double().mean())
        assert abs(inside - p) < 4 * (p * (1 - p) / len(x)) ** 0.5
    assert float(delta.double().mean(0).abs().max()) < 4 * 2.0 / len(x) ** 0.5
