"""Adversarial training's perturbation: one step of full length, without a trace on the network."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from service.tricks import adversarial
from service.tricks.adversarial import AdversarialTraining, FGSMTraining

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
W = torch.tensor([3.0, -4.0, 0.0, 12.0], dtype=torch.float64)
DUAL = {"linf": float(W.abs().sum()), "l2": float(W.norm())}


def test_every_kind_is_tested_here() -> None:
    kinds = {value for value in vars(adversarial).values() if isinstance(value, type) and "method" in getattr(value, "model_fields", ())}
    assert kinds == {FGSMTraining} == {get_args(AdversarialTraining)[0]}


@pytest.mark.parametrize("norm", DUAL)
def test_a_linear_loss_rises_by_epsilon_times_the_dual_norm(norm: Any) -> None:
    moved = FGSMTraining(epsilon=0.3, norm=norm).perturb(X, lambda x: (x @ W).mean())
    torch.testing.assert_close((moved - X) @ W, torch.full((6,), 0.3 * DUAL[norm], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert bool(((moved - X)[:, 2] == 0).all()), "sign(0) = 0"


def test_the_loss_of_a_batch_moves_each_row_as_alone() -> None:
    network = torch.nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def loss(x: Tensor) -> Tensor:
        return network(x).square().mean()

    rule = FGSMTraining(epsilon=0.1, norm="l2")
    together = rule.perturb(X, loss)
    alone = torch.cat([rule.perturb(row, loss) for row in X.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_nothing_of_it_stays_behind() -> None:
    network = nn.Linear(4, 1).double()
    before = [p.detach().clone() for p in network.parameters()]
    moved = FGSMTraining(epsilon=0.1).perturb(X, lambda x: network(x).square().mean())
    assert not moved.requires_grad, "no gradient flows through the perturbed rows"
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


def test_epsilon_zero_moves_nothing() -> None:
    assert torch.equal(FGSMTraining(epsilon=0.0).perturb(X, lambda x: (x @ W).mean()), X)


def test_a_flat_loss_moves_nothing() -> None:
    for norm in DUAL:
        moved = FGSMTraining(epsilon=0.5, norm=norm).perturb(X, lambda x: (x * 0).mean())
        assert torch.equal(moved, X)
