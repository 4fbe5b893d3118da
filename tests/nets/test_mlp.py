"""The multi-layer perceptron against its formula in numpy."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import special
from torch import Tensor

from service.nets.activations import ActivationName
from service.nets.mlp import MLP, Perceptron
from service.tricks.dropout import SCALED, Replayed, Sampled, Site, draw_mask

Floats = NDArray[np.float64]
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * special.ndtr(x),
    "silu": lambda x: x * special.expit(x),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "identity": lambda x: x,
}
X = torch.randn(7, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def trunk(seed: int = 0, **fields: Any) -> Perceptron:
    built = MLP.model_validate(fields).build((3, 4), torch.Generator().manual_seed(seed))
    return built.double().eval()


def of(layer: Any) -> tuple[Floats, Floats]:
    return layer.linear.weight.detach().numpy(), layer.linear.bias.detach().numpy()


def test_every_activation_is_in_the_table() -> None:
    assert set(ACTIVATIONS) == set(get_args(ActivationName))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_are_affine_maps_and_activations(activation: str) -> None:
    network = trunk(hidden=[6, 5], activation=activation)
    h = X.numpy().reshape(7, 12)
    for layer in network.hidden:
        weight, bias = of(layer)
        h = ACTIVATIONS[activation](h @ weight.T + bias)
    torch.testing.assert_close(network(X, SCALED), torch.from_numpy(h), rtol=1e-10, atol=1e-12)
    assert network.features == 5


def test_no_hidden_layer_is_the_identity_on_flattened_rows() -> None:
    network = trunk(hidden=[])
    assert torch.equal(network(X, SCALED), X.flatten(1))
    assert network.features == 12
    assert not list(network.parameters())


def test_no_bias() -> None:
    network = trunk(hidden=[6], bias=False)
    assert network.hidden[0].linear.bias is None
    assert bool((network(torch.zeros_like(X), SCALED) == 0).all())


def test_batch_norm_comes_before_the_activation() -> None:
    network = trunk(hidden=[6], batch_norm=True).train()
    with torch.no_grad():
        network.hidden[0].norm.weight.fill_(2.0)
        network.hidden[0].norm.bias.fill_(-0.5)
    weight, bias = of(network.hidden[0])
    z = X.numpy().reshape(7, 12) @ weight.T + bias
    expected = np.maximum(2 * (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) - 0.5, 0)
    torch.testing.assert_close(network(X, SCALED).detach(), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    # Running statistics move by a tenth towards those of the batch, the variance being the unbiased one.
    torch.testing.assert_close(network.hidden[0].norm.running_mean, torch.from_numpy(0.1 * z.mean(0)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(network.hidden[0].norm.running_var, torch.from_numpy(0.9 + 0.1 * z.var(0, ddof=1)), rtol=1e-9, atol=0)


def test_a_batch_of_one_row_is_normalized_as_when_served() -> None:
    """It has no variance of its own."""
    network = trunk(hidden=[6], batch_norm=True)
    with torch.no_grad():
        network.hidden[0].norm.running_mean.fill_(0.3)
        network.hidden[0].norm.running_var.fill_(2.0)
    served = network(X[:1], SCALED)
    assert torch.equal(network.train()(X[:1], SCALED), served)
    assert bool((network.hidden[0].norm.running_mean == 0.3).all())


RESIDUAL = {"hidden": [6, 6, 6, 6, 6], "residual": True}


def test_residual_pairs_add_before_the_activation() -> None:
    network = trunk(**RESIDUAL)
    (w0, b0), *rest = [of(layer) for layer in network.hidden]
    h = np.maximum(X.numpy().reshape(7, 12) @ w0.T + b0, 0)
    for (w1, b1), (w2, b2) in zip(rest[::2], rest[1::2], strict=True):
        h = np.maximum(h + np.maximum(h @ w1.T + b1, 0) @ w2.T + b2, 0)
    torch.testing.assert_close(network(X, SCALED), torch.from_numpy(h), rtol=1e-10, atol=1e-12)


def test_a_branch_of_zeros_is_the_identity() -> None:
    """On what a ReLU let through; and its Jacobian is I where that is positive."""
    network = trunk(**RESIDUAL)
    with torch.no_grad():
        for layer in network.hidden[2::2]:
            layer.linear.weight.zero_()
            layer.linear.bias.zero_()
    stem = network.hidden[0](X.flatten(1))
    assert torch.equal(network(X, SCALED), stem)

    def branches(h: Tensor) -> Tensor:
        for first, second in zip(network.hidden[1::2], network.hidden[2::2], strict=True):
            h = second(first(h), h)
        return h

    jacobian = torch.autograd.functional.jacobian(branches, torch.full((1, 6), 0.5, dtype=torch.float64))
    assert torch.equal(jacobian.squeeze(), torch.eye(6, dtype=torch.float64))


def test_a_residual_network_has_as_many_parameters_as_its_plain_twin() -> None:
    counts = [sum(p.numel() for p in trunk(hidden=[6] * 5, residual=residual).parameters()) for residual in (True, False)]
    assert counts[0] == counts[1] == (12 + 1) * 6 + 4 * 7 * 6


@pytest.mark.parametrize("hidden", [[6, 6], [6, 6, 5], []])
def test_a_residual_network_is_a_stem_and_pairs(hidden: list[int]) -> None:
    with pytest.raises(ValidationError, match="a stem and pairs"):
        MLP.model_validate({"hidden": hidden, "residual": True})


def test_units_are_dropped_after_the_activation() -> None:
    network = trunk(hidden=[6, 5], activation="sigmoid", dropout={"input": 0.2, "hidden": [0.5, 0.3]})
    assert network.sites == (Site("input", 12, 0.2), Site("hidden.0", 6, 0.5), Site("hidden.1", 5, 0.3))
    masks = {site.name: draw_mask((1, site.units), site.rate, torch.Generator().manual_seed(i)) for i, site in enumerate(network.sites)}
    h = X.numpy().reshape(7, 12) * masks["input"].numpy()
    for i, layer in enumerate(network.hidden):
        weight, bias = of(layer)
        h = special.expit(h @ weight.T + bias) * masks[f"hidden.{i}"].numpy()
    torch.testing.assert_close(network(X, Replayed(masks)), torch.from_numpy(h), rtol=1e-9, atol=1e-12)


def test_many_masks_at_once_are_one_after_the_other() -> None:
    for batch_norm in (False, True):
        network = trunk(**RESIDUAL, batch_norm=batch_norm, dropout={"input": 0.2, "hidden": 0.5})
        masks = {site.name: draw_mask((4, 1, site.units), site.rate, torch.Generator().manual_seed(1)) for site in network.sites}
        together = network(X, Replayed(masks))
        assert together.shape == (4, 7, 6)
        for s in range(4):
            alone = network(X, Replayed({name: mask[s] for name, mask in masks.items()}))
            torch.testing.assert_close(together[s], alone, rtol=1e-12, atol=1e-14)


def test_rate_zero_is_bitwise_no_dropout() -> None:
    plain, none = trunk(hidden=[6]), trunk(hidden=[6], dropout=0.0)
    assert torch.equal(plain(X, SCALED), none(X, Sampled([torch.Generator().manual_seed(0)], len(X))))


WIDE, IN = 400, 300


@pytest.mark.parametrize(
    ("how", "variance", "bias"), [("torch", 1 / (3 * IN), 1 / IN**0.5), ("he", 2 / IN, 0.0), ("glorot", 2 / (IN + WIDE), 0.0)]
)
def test_initial_weights(how: Any, variance: float, bias: float) -> None:
    built = MLP(hidden=(WIDE,), init=how).build((IN,), torch.Generator().manual_seed(0))
    weight = built.hidden[0].linear.weight.detach().double()
    assert abs(float(weight.mean())) < 4 * (variance / weight.numel()) ** 0.5
    assert float(weight.var()) == pytest.approx(variance, rel=4 * (2 / weight.numel()) ** 0.5)
    biases = built.hidden[0].linear.bias.detach()
    assert float(biases.abs().max()) <= bias
    assert float(biases.abs().max()) >= 0.95 * bias


def test_the_generator_decides_every_weight() -> None:
    torch.manual_seed(1)
    first, again, other = (trunk(seed, hidden=[6, 5]).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_names_of_layers() -> None:
    assert list(trunk(hidden=[6, 5], batch_norm=True).linears()) == ["hidden.0", "hidden.1"]


def test_one_rate_or_one_for_each_layer() -> None:
    with pytest.raises(ValidationError, match="3 rates for 2 layers"):
        MLP.model_validate({"hidden": [4, 4], "dropout": {"hidden": [0.1, 0.1, 0.1]}})


def test_no_rate_for_two_layers_is_refused() -> None:
    with pytest.raises(ValidationError, match="0 rates for 2 layers"):
        MLP.model_validate({"hidden": [4, 4], "dropout": {"hidden": []}})
