"""The dense autoencoder: what it computes, what its layers are called, and weights that two layers have in common."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from service.nets.autoencoder import Autoencoder
from service.nets.network import Network, NetworkSpec, Scale, stack, stackable, weights_of
from service.tricks.dropout import Site
from service.tricks.multitask import Classification, Reconstruction
from service.tricks.normalization import Normalize

SHIFT, SCALE = torch.arange(6.0).view(2, 3), torch.tensor([[2.0, 0.25, 10.0], [1.0, 3.0, 0.5]])
X = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)) * SCALE + SHIFT
LABEL, INPUT = Classification(name="kind"), Reconstruction(name="input")


def network(seed: int = 0, targets: Any = (INPUT, LABEL), std: Tensor = SCALE, **architecture: Any) -> Network:
    """Rows of two times three entries, reconstructed; and a class of four."""
    spec = Autoencoder.model_validate({"hidden": [5, 4], "code": 2, "activation": "tanh", **architecture})
    own = {"input": Scale(SHIFT.flatten(), std.flatten()), "kind": Scale(torch.zeros(1), torch.ones(1))}
    described = NetworkSpec(spec, (2, 3), targets, tuple(6 if target.from_inputs else 4 for target in targets))
    scales = [own[target.name] for target in targets]
    return Network(described, Normalize(SHIFT, SCALE), scales, torch.Generator().manual_seed(seed)).eval()


def by_hand(built: Network) -> tuple[Tensor, Tensor]:
    """The code and the normalized reconstruction, layer by layer; a tied layer has the encoder's weights, transposed."""
    trunk, head = built.trunk, built.heads[0]
    down = [*trunk.encoder, trunk.code]
    back = [layer.weight.T if built.spec.architecture.tied else None for layer in reversed(down)]
    up = [(layer.weight if tied is None else tied, layer.bias) for layer, tied in zip([*trunk.decoder, head], back, strict=True)]
    h = ((X - SHIFT) / SCALE).flatten(1)
    for layer in trunk.encoder:
        h = torch.tanh(h @ layer.weight.T + layer.bias)
    code = h = h @ trunk.code.weight.T + trunk.code.bias
    for place, (weight, bias) in enumerate(up):
        h = h @ weight.T + bias
        h = torch.tanh(h) if place < len(up) - 1 else h
    return code, h


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("hidden", [[], [5], [5, 4]])
def test_rows_go_through_the_code_and_back(tied: bool, hidden: list[int]) -> None:
    built = network(tied=tied, hidden=hidden)
    code, z = by_hand(built)
    said = built.distributions(X)
    torch.testing.assert_close(built.code(X), code)
    torch.testing.assert_close(said["input"].mean, z * SCALE.flatten() + SHIFT.flatten())
    torch.testing.assert_close(said["kind"].logits, code @ built.heads[1].weight.T + built.heads[1].bias)


def test_the_loss_in_the_inputs_unit_answers_alike() -> None:
    other = Reconstruction(name="input", loss="mse_original")
    torch.testing.assert_close(
        network(targets=(other,)).distributions(X)["input"].mean, network(targets=(INPUT,)).distributions(X)["input"].mean
    )


def test_a_constant_entry_is_its_one_value() -> None:
    std = SCALE.clone()
    std[0, 1] = 0.0
    assert torch.equal(network(std=std).distributions(X)["input"].mean[:, 1], torch.ones(7))


def test_names_sites_and_counts() -> None:
    built, tied = network(), network(tied=True)
    names = ["encoder.0", "encoder.1", "code", "decoder.0", "decoder.1", "head.input", "head.kind"]
    assert list(built.layers()) == list(tied.layers()) == names
    counts = [6 * 5 + 5, 5 * 4 + 4, 4 * 2 + 2, 2 * 4 + 4, 4 * 5 + 5, 5 * 6 + 6, 2 * 4 + 4]
    assert [layer.parameters for layer in built.describe()] == counts
    assert [layer.parameters for layer in tied.describe()] == [*counts[:3], 4, 5, 6, counts[6]]
    assert [layer.type for layer in tied.describe()] == ["linear"] * 3 + ["transposed"] * 3 + ["linear"]
    assert [layer.shape for layer in tied.describe()] == [(5,), (4,), (2,), (4,), (5,), (6,), (4,)]
    for each in (built, tied):
        assert sum(layer.parameters for layer in each.describe()) == sum(p.numel() for p in each.parameters())
        assert each.spec.architecture.weights((2, 3)) == sum(p.numel() for p in each.trunk.parameters() if p.ndim == 2) + (
            0 if each is tied else 5 * 6
        )
    assert (built.saved, tied.saved) == (0, 6 * 5 + 5 * 4 + 4 * 2)
    assert sum(p.numel() for p in built.parameters()) - sum(p.numel() for p in tied.parameters()) == tied.saved


def test_a_rate_for_each_layer_of_encoder_and_decoder() -> None:
    rates = {"input": 0.1, "hidden": [0.2, 0.3, 0.4, 0.5]}
    sites = network(dropout=rates).sites
    assert sites == (
        Site("input", 6, 0.1), Site("encoder.0", 5, 0.2), Site("encoder.1", 4, 0.3), Site("code", 2, 0.0),
        Site("decoder.0", 4, 0.4), Site("decoder.1", 5, 0.5),
    )  # fmt: skip
    assert {site.rate for site in network(dropout=0.25).sites} == {0.0, 0.25}
    with pytest.raises(ValidationError, match="2 rates for 4 layers"):
        network(dropout={"hidden": [0.1, 0.2]})


def test_every_unit_passes_its_own_site() -> None:
    seen = []

    def gate(x: Tensor, site: Site) -> Tensor:
        seen.append((site.name, x.shape[-1]))
        return x

    built = network()
    built(X, gate)
    assert seen == [(site.name, site.units) for site in built.sites]


# --- weights in common ----------------------------------------------------------------------------------------------


def untied(built: Network) -> Network:
    """The same function without a weight in common."""
    apart = network(tied=False, hidden=list(built.spec.architecture.hidden), targets=built.spec.targets).double()
    down = [*built.trunk.encoder, built.trunk.code]
    with torch.no_grad():
        apart.load_state_dict(built.state_dict(), strict=False)
        for layer, source in zip([*apart.trunk.decoder, apart.heads[0]], reversed(down), strict=True):
            layer.weight.copy_(source.weight.T)
    return apart


@pytest.mark.parametrize("hidden", [[], [5], [5, 4]])
def test_the_gradient_of_a_tied_weight_is_the_sum_of_those_of_its_two_copies(hidden: list[int]) -> None:
    built = network(tied=True, hidden=hidden).double()
    apart = untied(built)
    for each in (built, apart):
        said = each(X.double())
        (said["input"].square().mean() + said["kind"].square().mean()).backward()
    down, up = [*apart.trunk.encoder, apart.trunk.code], [*apart.trunk.decoder, apart.heads[0]]
    for layer, first, second in zip([*built.trunk.encoder, built.trunk.code], down, reversed(up), strict=True):
        torch.testing.assert_close(layer.weight.grad, first.weight.grad + second.weight.grad.T, rtol=1e-14, atol=1e-16)
        torch.testing.assert_close(layer.bias.grad, first.bias.grad, rtol=1e-14, atol=1e-16)
        assert bool((second.weight.grad != 0).any())


def test_a_tied_weight_is_one_parameter_kept_once() -> None:
    built = network(tied=True)
    learned = built.learned()
    assert sorted(name for name in learned if name.endswith("weight")) == [
        "heads.1.weight", "trunk.code.weight", "trunk.encoder.0.weight", "trunk.encoder.1.weight",
    ]  # fmt: skip
    assert len({tensor.data_ptr() for tensor in learned.values()}) == len(learned)
    assert weights_of(built, ["decoder.0", "decoder.1", "head.input"], everything=False) == []
    other = network(seed=1, tied=True)
    assert not torch.equal(other(X)["input"], built(X)["input"])
    other.load({name: tensor.clone() for name, tensor in learned.items()})
    assert torch.equal(other(X)["input"], built(X)["input"])


def test_copies_are_tied_to_themselves() -> None:
    built = network(tied=True)
    double = deepcopy(built).double()
    torch.testing.assert_close(double(X)["input"], built(X)["input"].double(), rtol=1e-5, atol=1e-5)
    before = built(X)["input"]
    with torch.no_grad():
        double.trunk.encoder[0].weight.zero_()
    assert torch.equal(built(X)["input"], before)
    assert torch.equal(double(X)["input"][0], double(X)["input"][1]), "a first layer of zeros lets nothing of a row through"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("hidden", [[], [5, 4]])
def test_a_stack_gives_each_members_answer(tied: bool, hidden: list[int]) -> None:
    members = [network(seed=seed, tied=tied, hidden=hidden) for seed in range(3)]
    whole = stack(members)
    assert stackable(members[0])
    assert (whole.members, whole.saved) == (3, members[0].saved)
    for place, member in enumerate(members):
        for name, raw in member(X).items():
            torch.testing.assert_close(whole(X)[name][place], raw, rtol=1e-5, atol=1e-6)
            own = X.expand(3, *X.shape) + torch.arange(3.0).view(3, 1, 1, 1)
            torch.testing.assert_close(whole(own)[name][place], member(own[place])[name], rtol=1e-5, atol=1e-6)


def test_the_generator_decides_every_weight() -> None:
    for tied in (False, True):
        first, again, other = (network(seed=seed, tied=tied).learned() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)
