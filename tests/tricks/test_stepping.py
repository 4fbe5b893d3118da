"""The quick optimizers take torch's steps, bit by bit."""

import subprocess
import sys
from copy import deepcopy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from service.tricks.optimization import SGD, Adam, AdamW, Optimizer, rate_of, set_rates

# What each is called in torch, with the options that its spec stands for.
PEERS: dict[str, tuple[Any, Any]] = {
    "sgd": (SGD(learning_rate=0.05), lambda w, o: torch.optim.SGD([*w, *o], lr=0.05, momentum=0.9, fused=True)),
    "sgd, nesterov": (SGD(nesterov=True), lambda w, o: torch.optim.SGD([*w, *o], lr=0.1, momentum=0.9, nesterov=True, fused=True)),
    "sgd, no momentum": (SGD(momentum=0.0), lambda w, o: torch.optim.SGD([*w, *o], lr=0.1, fused=True)),
    "adam": (Adam(betas=(0.8, 0.9)), lambda w, o: torch.optim.Adam([*w, *o], lr=1e-3, betas=(0.8, 0.9), fused=True)),
    "adamw": (
        AdamW(weight_decay=0.2),
        lambda w, o: torch.optim.AdamW([{"params": w, "weight_decay": 0.2}, {"params": o, "weight_decay": 0.0}], lr=1e-3, fused=True),
    ),
}


def test_every_optimizer_has_a_peer() -> None:
    assert {type(spec) for spec, _ in PEERS.values()} == set(get_args(get_args(Optimizer)[0]))


def parameters() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator), torch.randn(2, 5, generator=generator)], [torch.randn(5, generator=generator)]


@pytest.mark.parametrize("name", PEERS)
def test_steps_are_torchs_own_bit_by_bit(name: str) -> None:
    """Also when the rate changes, a gradient is missing for a step, and state comes from a checkpoint."""
    spec, peer = PEERS[name]
    mine, theirs = parameters(), parameters()
    quick, plain = spec.build(*mine), peer(*theirs)
    generator = torch.Generator().manual_seed(2)
    for step in range(12):
        for a, b in zip([*mine[0], *mine[1]], [*theirs[0], *theirs[1]], strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        if step == 5:
            mine[0][1].grad = theirs[0][1].grad = None
        if step == 8:
            quick.load_state_dict(deepcopy(plain.state_dict()))
        for optimizer in (quick, plain):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip([*mine[0], *mine[1]], [*theirs[0], *theirs[1]], strict=True)), step
    assert str(quick.state_dict()["state"]) == str(plain.state_dict()["state"])


def test_a_closure_is_called_with_gradients() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = SGD(learning_rate=0.25, momentum=0.0).build([w], [])

    def closure() -> float:
        w.grad = None
        loss = w.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 5.0
    torch.testing.assert_close(w.detach(), torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize("name", PEERS)
def test_members_with_rates_of_their_own_step_as_by_themselves(name: str) -> None:
    """Bit by bit, through a change of rates and a checkpoint."""
    spec, rates = PEERS[name][0], [0.1, 0.003, 0.02]
    generator = torch.Generator().manual_seed(3)
    stacked = [torch.randn(3, *shape, generator=generator) for shape in ((5, 3), (2, 5), (5,))]
    single = [[each[k].clone() for each in stacked] for k in range(3)]
    together = spec.build(stacked[:2], stacked[2:], rates=rates)
    alone = [spec.model_copy(update={"learning_rate": rate}).build(own[:2], own[2:]) for rate, own in zip(rates, single, strict=True)]
    for step in range(9):
        factor = 1 / (1 + step)
        if step == 4:
            again = spec.build(stacked[:2], stacked[2:], rates=[1.0, 1.0, 1.0])
            again.load_state_dict(deepcopy(together.state_dict()))
            together = again
            assert [rate_of(together, k) for k in range(3)] == [rate / step for rate in rates], "rates come with the state"
        set_rates(together, [rate * factor for rate in rates])
        for each in stacked:
            each.grad = torch.randn(each.shape, generator=generator)
        for k, (optimizer, own) in enumerate(zip(alone, single, strict=True)):
            set_rates(optimizer, [rates[k] * factor])
            for whole, each in zip(stacked, own, strict=True):
                each.grad = whole.grad[k].clone()
            optimizer.step()
        together.step()
        for k, own in enumerate(single):
            assert all(torch.equal(whole[k], each) for whole, each in zip(stacked, own, strict=True)), (step, k)


def test_steps_do_without_torchs_compiler() -> None:
    """Its import would cost every process that trains a second or two."""
    code = """
import sys, torch
from service.tricks.optimization import SGD, Adam, AdamW
for kind in (SGD, Adam, AdamW):
    w = torch.ones(2, 2, requires_grad=True)
    optimizer = kind().build([w], [])
    w.sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
assert "torch" in sys.modules
print("torch._dynamo" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert answer.stdout.strip() == "False"
