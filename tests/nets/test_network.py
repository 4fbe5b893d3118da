"""The whole network: raw inputs in, the user's units out; and which of its parameters are weights."""

from typing import Any

import pytest
import torch

from service.nets.mlp import MLP
from service.nets.network import Network, NetworkSpec, Scale, is_weight, weights_of
from service.tricks.multitask import Classification, Regression
from service.tricks.normalization import Normalize

SHIFT, SCALE = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.25, 10.0])
MEAN, STD = torch.tensor([100.0, -3.0]), torch.tensor([7.0, 0.5])
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * SCALE + SHIFT


def network(seed: int = 0, **architecture: Any) -> Network:
    """Three inputs; a class of four, two numbers, and a Gaussian number."""
    spec = MLP.model_validate({"hidden": [5, 5, 5], **architecture})
    targets = (Classification(name="kind"), Regression(name="size"), Regression(name="age", loss="gaussian_nll"))
    scales = [Scale(torch.zeros(1), torch.ones(1)), Scale(MEAN, STD), Scale(torch.tensor([40.0]), torch.tensor([20.0]))]
    built = Network(NetworkSpec(spec, (3,), targets, (4, 2, 1)), Normalize(SHIFT, SCALE), scales, torch.Generator().manual_seed(seed))
    return built.eval()


def test_inputs_are_normalized_and_outputs_are_in_the_users_unit() -> None:
    built = network(hidden=[])
    kind, size, age = built.heads
    z = (X - SHIFT) / SCALE
    said = built.distributions(X)
    torch.testing.assert_close(said["kind"].logits, kind(z))
    torch.testing.assert_close(said["size"].mean, size(z) * STD + MEAN)
    torch.testing.assert_close(said["age"].mean, age(z)[:, :1] * 20 + 40)
    torch.testing.assert_close(said["age"].variance, (torch.nn.functional.softplus(age(z)[:, 1:]) + 1e-6) * 400)


def test_whole_numbers_are_inputs_like_any_other() -> None:
    x = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
    built = network()
    assert torch.equal(built(x)["kind"], built(x.float())["kind"])


def test_logits_alone_are_scaled() -> None:
    plain, scaled = network()(X), network(logit_scale=8.0)(X)
    assert torch.equal(scaled["kind"], plain["kind"] * 8)
    assert torch.equal(scaled["size"], plain["size"])


def test_one_heads_gradient_never_touches_another() -> None:
    built = network()
    for i, name in enumerate(("kind", "size", "age")):
        built.zero_grad(set_to_none=True)
        built(X)[name].square().sum().backward()
        for j, head in enumerate(built.heads):
            assert (head.weight.grad is not None) == (i == j)
        assert built.trunk.hidden[0].linear.weight.grad is not None, "the trunk is shared"


def test_gradients_reach_the_raw_inputs() -> None:
    """The normalizer is inside: an input of scale s has a gradient 1 / s times that of its normalized twin."""
    built = network(activation="tanh")
    raw = torch.autograd.functional.jacobian(lambda x: built(x)["size"].sum(), X)
    inner = torch.autograd.functional.jacobian(lambda z: built.heads[1](built.trunk(z, lambda x, site: x)).sum(), (X - SHIFT) / SCALE)
    torch.testing.assert_close(raw, inner / SCALE, rtol=1e-5, atol=1e-7)


def test_weights_are_neither_biases_nor_gains() -> None:
    built = network(batch_norm=True)
    names = {id(p): name for name, p in built.named_parameters()}
    layers = list(built.layers())
    assert layers == ["hidden.0", "hidden.1", "hidden.2", "head.kind", "head.size", "head.age"]
    weights = {names[id(p)] for p in weights_of(built, layers, everything=False)}
    assert weights == {name for name in names.values() if name.endswith("weight") and "norm" not in name}
    everything = {names[id(p)] for p in weights_of(built, layers, everything=True)}
    assert everything == set(names.values())
    assert {name for name, p in built.named_parameters() if is_weight(built, p)} == weights
    assert [names[id(p)] for p in weights_of(built, ["hidden.1"], everything=False)] == ["trunk.hidden.1.linear.weight"]


def test_what_is_learned_is_all_that_members_differ_in() -> None:
    first, second = network(0, batch_norm=True), network(1, batch_norm=True)
    with torch.no_grad():
        first.trunk.hidden[0].norm.running_mean.fill_(0.7)
    learned = first.learned()
    assert not any(name.startswith(("preprocess", "scales")) for name in learned)
    assert {"trunk.hidden.0.norm.running_mean", "trunk.hidden.0.norm.running_var"} <= set(learned)
    assert not torch.equal(first(X)["kind"], second(X)["kind"])
    second.load({name: tensor.clone() for name, tensor in learned.items()})
    assert all(torch.equal(first(X)[name], second(X)[name]) for name in first(X))


def test_every_layer_is_described() -> None:
    built = network(batch_norm=True)
    described = {layer.name: (layer.shape, layer.parameters) for layer in built.describe()}
    assert described == {
        "hidden.0": ((5,), 4 * 5 + 10), "hidden.1": ((5,), 6 * 5 + 10), "hidden.2": ((5,), 6 * 5 + 10),
        "head.kind": ((4,), 24), "head.size": ((2,), 12), "head.age": ((2,), 12),
    }  # fmt: skip
    assert sum(count for _, count in described.values()) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("how", ["he", "glorot"])
def test_heads_are_initialized_like_layers(how: str) -> None:
    built = network(init=how)
    assert all(bool((head.bias == 0).all()) for head in built.heads)
    assert all(bool((head.weight != 0).any()) for head in built.heads)
