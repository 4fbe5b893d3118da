"""Targets: losses against their formulas, units, and labels that are missing."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from service.tricks.multitask import VARIANCE_FLOOR, Classification, Regression, SoftLabels, Target, gaussian, mean_loss

N, D, CLASSES = 12, 3, 4
TARGETS: dict[str, Any] = {
    "classes": Classification(name="y"),
    "mse": Regression(name="y"),
    "gaussian": Regression(name="y", loss="gaussian_nll"),
    "soft": SoftLabels(name="y"),
}


def raw(name: str, seed: int = 0) -> Tensor:
    width = TARGETS[name].outputs(CLASSES if name in ("classes", "soft") else D)
    return torch.randn(N, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(name: str, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name == "classes":
        return torch.randint(CLASSES, (N,), generator=generator)
    if name == "soft":
        return torch.rand(N, CLASSES, dtype=torch.float64, generator=generator).softmax(-1)
    return torch.randn(N, D, dtype=torch.float64, generator=generator)


def test_every_target_is_in_the_table() -> None:
    """But for a reconstruction, whose labels are no labels: tests/tricks/test_reconstruction.py."""
    assert {type(target) for target in TARGETS.values()} == {kind for kind in get_args(get_args(Target)[0]) if not kind.from_inputs}


def test_outputs_of_a_head() -> None:
    assert [target.outputs(5) for target in TARGETS.values()] == [5, 5, 10, 5]


def test_cross_entropy_is_the_negative_log_of_the_softmax() -> None:
    z, y = raw("classes").numpy(), labels("classes").numpy()
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(N), y]
    np.testing.assert_allclose(TARGETS["classes"].losses(raw("classes"), labels("classes")).numpy(), expected, rtol=1e-12)


def test_squared_error_is_the_mean_over_outputs() -> None:
    expected = ((raw("mse") - labels("mse")).numpy() ** 2).mean(1)
    np.testing.assert_allclose(TARGETS["mse"].losses(raw("mse"), labels("mse")).numpy(), expected, rtol=1e-12)


def test_the_gaussian_loss_is_the_density() -> None:
    z, y = raw("gaussian"), labels("gaussian")
    center, spread = z.numpy()[:, :D], z.numpy()[:, D:]
    variance = np.log1p(np.exp(spread)) + VARIANCE_FLOOR
    expected = -stats.norm.logpdf(y.numpy(), center, np.sqrt(variance)).mean(1)
    np.testing.assert_allclose(TARGETS["gaussian"].losses(z, y).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("spread", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_the_variance_has_a_floor_and_no_ceiling(spread: float) -> None:
    _, variance = gaussian(torch.tensor([[0.0, spread]]))
    assert float(variance) == pytest.approx(max(spread, 0) + math.log1p(math.exp(-abs(spread))) + VARIANCE_FLOOR, rel=1e-6)


def test_answers_are_in_the_users_unit() -> None:
    """The density of y = s z + m is that of z over s, for every output."""
    mean, std = torch.tensor([10.0, -5.0, 0.1], dtype=torch.float64), torch.tensor([3.0, 0.5, 100.0], dtype=torch.float64)
    z, normalized = raw("gaussian"), labels("gaussian")
    said = TARGETS["gaussian"].read(z, mean, std)
    truth = normalized * std + mean
    density = -stats.norm.logpdf(truth.numpy(), said.mean.numpy(), said.variance.sqrt().numpy()).mean(1)
    expected = TARGETS["gaussian"].losses(z, normalized).numpy() + np.log(std.numpy()).mean()
    np.testing.assert_allclose(density, expected, rtol=1e-10)
    plain = TARGETS["mse"].read(raw("mse"), mean, std)
    assert plain.variance is None
    torch.testing.assert_close(((plain.mean - truth) / std).square().mean(-1), TARGETS["mse"].losses(raw("mse"), normalized))
    assert torch.equal(TARGETS["classes"].read(raw("classes"), mean, std).logits, raw("classes"))


def test_the_spread_of_an_answer_is_positive() -> None:
    said = TARGETS["gaussian"].read(raw("gaussian") - 1000, torch.zeros(D), torch.full((D,), 2.0))
    torch.testing.assert_close(said.variance, torch.full((N, D), 4 * VARIANCE_FLOOR, dtype=torch.float64))


def graded(name: str, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss and its gradient in the raw outputs."""
    outputs = raw(name).requires_grad_(True)
    loss = mean_loss(TARGETS[name], outputs, wanted)
    (gradient,) = torch.autograd.grad(loss, outputs)
    return loss.detach(), gradient


@settings(deadline=None, max_examples=60)
@given(known=st.lists(st.booleans(), min_size=N, max_size=N), name=st.sampled_from(sorted(TARGETS)))
def test_a_missing_label_is_as_if_its_row_were_not_there(known: list[bool], name: str) -> None:
    here = torch.tensor(known)
    wanted = labels(name)
    wanted[~here] = -1 if name == "classes" else math.nan
    loss, gradient = graded(name, wanted)
    assert bool((gradient[~here] == 0).all())
    if here.any():
        outputs = raw(name)[here].requires_grad_(True)
        expected = TARGETS[name].losses(outputs, wanted[here]).mean()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient[here], torch.autograd.grad(expected, outputs)[0], rtol=1e-12, atol=1e-15)
    else:
        assert float(loss) == 0.0


@pytest.mark.parametrize("name", ["mse", "gaussian", "soft"])
def test_what_else_a_masked_row_holds_does_not_matter(name: str) -> None:
    found = []
    for other in (0.0, 1e9, math.nan, math.inf):
        wanted = labels(name)
        wanted[::3] = other
        wanted[::3, 1] = math.nan
        found.append(graded(name, wanted))
    assert all(torch.equal(loss, found[0][0]) and torch.equal(gradient, found[0][1]) for loss, gradient in found)
    assert bool(found[0][1].isfinite().all())


def test_no_missing_label_is_the_plain_mean() -> None:
    for name, target in TARGETS.items():
        torch.testing.assert_close(graded(name, labels(name))[0], target.losses(raw(name), labels(name)).mean(), rtol=1e-12, atol=0)


def test_cross_entropy_is_smallest_at_the_class_frequencies() -> None:
    """Its minimum over constant logits is the entropy of the labels."""
    y = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    entropy = -(p * p.log()).sum()
    assert float(F.cross_entropy(p.log().expand(10, 3), y)) == pytest.approx(float(entropy), rel=1e-12)
    target = Classification(name="y")
    for other in (torch.tensor([0.4, 0.4, 0.2]), torch.tensor([0.6, 0.2, 0.2])):
        assert target.losses(other.double().log().expand(10, 3), y).mean() > entropy
