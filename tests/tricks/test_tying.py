"""Soft ties: their value, their gradient, and where descent on two quadratics that are tied ends."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from service.flaws import flaws_of
from service.tricks.penalties import Tie

DOUBLE = torch.float64


def pair(seed: int = 0, *, turned: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, generator=generator, dtype=DOUBLE), torch.randn(
        (4, 3) if turned else (3, 4), generator=generator, dtype=DOUBLE
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_tie_is_the_squared_distance_with_its_gradient_on_both(turned: bool) -> None:
    tie = Tie(between=("a", "b"), alpha=0.3, transposed=turned)
    a, b = (side.requires_grad_() for side in pair(turned=turned))
    value = tie.value([a, b])
    expected = 0.3 * np.square(a.detach().numpy() - (b.detach().numpy().T if turned else b.detach().numpy())).sum()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    slopes = torch.autograd.grad(value, [a, b])
    for side in (a, b):
        side.grad = torch.ones_like(side)
    with torch.no_grad():
        tie.add_gradient([a, b])
    for side, slope in zip((a, b), slopes, strict=True):
        torch.testing.assert_close(side.grad, 1 + slope, rtol=1e-12, atol=1e-12)


def test_a_layer_tied_to_its_own_transpose_becomes_symmetric() -> None:
    """Both sides are one parameter, which gets what each of them would."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, generator=generator, dtype=DOUBLE, requires_grad=True)
    tie = Tie(between=("a", "a"), alpha=0.3, transposed=True)
    (slope,) = torch.autograd.grad(tie.value([a, a]), a)
    a.grad = torch.ones_like(a)
    with torch.no_grad():
        tie.add_gradient([a, a])
    torch.testing.assert_close(a.grad, 1 + slope, rtol=1e-12, atol=1e-12)


def test_a_tie_is_symmetric_and_zero_only_between_equals() -> None:
    a, b = pair()
    tie = Tie(between=("a", "b"), alpha=0.3)
    assert float(tie.value([a, b])) == pytest.approx(float(tie.value([b, a])), rel=1e-12)
    assert float(tie.value([a, a.clone()])) == 0
    nearly = a.clone()
    nearly[0, 0] += 1e-6
    assert float(tie.value([a, nearly])) > 0


def test_a_constant_side_stays() -> None:
    a, constant = pair()
    a.grad = torch.zeros_like(a)
    Tie(between=("a", "b"), alpha=0.3).add_gradient([a, constant])
    torch.testing.assert_close(a.grad, 0.6 * (a - constant), rtol=1e-12, atol=1e-12)
    assert constant.grad is None


@pytest.mark.parametrize(("strength", "expected"), [(0.7, (0.557895, -0.705263)), (1e4, (-0.2, -0.2))])
def test_two_tied_quadratics_end_where_the_linear_system_says(strength: float, expected: tuple[float, float]) -> None:
    """2 (w1 - 1)^2 + 3 (w2 + 1)^2 + l (w1 - w2)^2; a stronger and stronger tie ends at their weighted mean."""
    system = np.linalg.solve([[2 + strength, -strength], [-strength, 3 + strength]], [2.0, -3.0])
    assert system == pytest.approx(expected, abs=2e-4 if strength > 100 else 5e-7)
    tie = Tie(between=("a", "b"), alpha=strength)
    w = [torch.zeros(1, 1, dtype=DOUBLE), torch.zeros(1, 1, dtype=DOUBLE)]
    rate = 0.2 / (3 + strength)
    for _ in range(400 if strength < 100 else 40_000):
        w[0].grad, w[1].grad = 4 * (w[0] - 1), 6 * (w[1] + 1)
        tie.add_gradient(w)
        for side in w:
            side.sub_(side.grad, alpha=rate)
    if strength < 100:
        assert [float(side) for side in w] == pytest.approx(list(system), abs=1e-9)
    else:
        assert float(w[0] - w[1]) == pytest.approx(system[0] - system[1], abs=1e-6)


@pytest.mark.parametrize(
    ("sent", "pointer", "code"),
    [
        ({"between": ["a", "a"], "alpha": 1.0}, "/between/1", "inconsistent-spec"),
        ({"between": ["a"], "alpha": 1.0}, "/between", "missing-field"),
        ({"between": [{"model": "m", "layer": "a"}, {"model": "m", "layer": "b"}], "alpha": 1.0}, "/between", "inconsistent-spec"),
        ({"between": ["a", "b"], "alpha": 1.0, "transposed": True, "parameters": "all"}, "/parameters", "inconsistent-spec"),
        ({"between": ["a", {"model": "m"}], "alpha": 1.0}, "/between/1/layer", "missing-field"),
        ({"between": ["a", "b"], "alpha": -1.0}, "/alpha", "value-out-of-range"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(sent: Any, pointer: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Tie.model_validate(sent)
    (flaw,) = flaws_of(refused.value, sent, model=Tie)
    assert (flaw.pointer, flaw.code) == (pointer, code)
