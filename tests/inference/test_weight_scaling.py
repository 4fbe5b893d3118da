"""The file of weights for masks that are not rescaled: halved they answer, unhalved they are the function that was trained."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.numpy import load

from service.errors import NotFound
from service.inference.asking import ask
from service.inference.model import Model
from service.inference.weight_scaling import KEEP, kept, unscaled
from service.nets import Architecture
from service.nets.network import Network, NetworkSpec, Scale
from service.tricks.dropout import Replayed, draw_mask
from service.tricks.modes import Asking
from service.tricks.multitask import Target
from service.tricks.normalization import Normalize

Arrays = Mapping[str, NDArray[np.float64]]
SIZE = {"task": "regression", "name": "size"}
KIND = {"task": "classification", "name": "kind"}
NETS: dict[str, dict[str, Any]] = {
    "one half": {"hidden": [6, 5], "dropout": 0.5},
    "inputs": {"hidden": [6, 5], "dropout": {"input": 0.2}},
    "rates of layers": {"hidden": [6, 5], "dropout": {"input": 0.2, "hidden": [0.5, 0.3]}},
    "rates of units": {"hidden": [6, 5], "dropout": {"hidden": [[0.1, 0.0, 0.9, 0.5, 0.333, 0.2], [0.5, 0.0, 0.1, 0.7, 0.2]]}},
    "a linear model": {"hidden": [], "dropout": {"input": 0.3}},
    "batch norm": {"hidden": [6, 5], "batch_norm": True, "dropout": {"hidden": [0.4, 0.25]}},
}


def tensors_of(model: Model) -> dict[str, NDArray[np.float64]]:
    return {name: value.astype(np.float64) for name, value in load(unscaled(model)).items()}


def halved(tensors: Arrays) -> dict[str, NDArray[np.float64]]:
    """What the textbook says to do before prediction."""
    return {name: value * tensors.get(name + KEEP, 1.0) for name, value in tensors.items() if not name.endswith(KEEP)}


def forward(
    tensors: Arrays, x: NDArray[np.float64], *, member: int = 0, kept: Mapping[str, Any] | None = None
) -> list[NDArray[np.float64]]:
    """What each head says before its link, in numpy, under masks of 0 and 1 that nothing rescales."""
    own = {name.removeprefix("members.0."): value for name, value in tensors.items() if name.startswith("members.0.")}
    kept = kept or {}
    h = (x - tensors["preprocess.shift"]) / tensors["preprocess.scale"] * kept.get("input", 1.0)
    for i in range(sum(name.endswith(".linear.weight") for name in own)):
        layer = f"trunk.hidden.{i}"
        h = h @ own[f"{layer}.linear.weight"].T + own[f"{layer}.linear.bias"]
        if f"{layer}.norm.weight" in own:
            deviation = np.sqrt(own[f"{layer}.norm.running_var"] + 1e-5)
            h = (h - own[f"{layer}.norm.running_mean"]) / deviation * own[f"{layer}.norm.weight"] + own[f"{layer}.norm.bias"]
        h = np.maximum(h, 0) * kept.get(f"hidden.{i}", 1.0)
    heads = sum(name.startswith("heads.") and name.endswith(".weight") for name in own)
    return [h @ own[f"heads.{i}.weight"].T + own[f"heads.{i}.bias"] for i in range(heads)]


@pytest.mark.parametrize("name", NETS)
def test_halved_it_answers_as_weight_scaling_does(bench: Any, name: str) -> None:
    model, x = bench.model(KIND, SIZE, **NETS[name]), bench.inputs(8)
    classes, numbers = forward(halved(tensors_of(model)), x.double().numpy())
    answers = ask(model, x, Asking(mode="weight_scaled").axes(model))
    p = np.exp(classes - classes.max(-1, keepdims=True))
    np.testing.assert_allclose(p / p.sum(-1, keepdims=True), answers["kind"].probabilities.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(numbers * 2 + 5, answers["size"].mean.numpy(), rtol=1e-6, atol=1e-5)
    unhalved = forward(tensors_of(model), x.double().numpy())[0]
    assert np.abs(unhalved - classes).max() > 0.01, "it is not the model as it predicts"


@pytest.mark.parametrize("name", NETS)
def test_under_masks_of_zero_and_one_it_is_the_function_that_was_trained(bench: Any, name: str) -> None:
    model, x = bench.model(KIND, SIZE, **NETS[name]), bench.inputs(8)
    network, tensors = model.networks[0], tensors_of(model)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        masks = {site.name: draw_mask((8, site.units), site.rate, generator) for site in network.sites if site.rate}
        kept = {site: (mask > 0).double().numpy() for site, mask in masks.items()}
        trained = network(x, Replayed(masks))
        for found, target in zip(forward(tensors, x.double().numpy(), kept=kept), ("kind", "size"), strict=True):
            np.testing.assert_allclose(found, trained[target].numpy(), rtol=1e-5, atol=2e-5)


def test_halving_a_half_is_exact(bench: Any) -> None:
    """Bit by bit, and every other tensor is the model's own."""
    model = bench.model(hidden=[6, 5], dropout={"input": 0.5, "hidden": [0.75, 0.5]})
    stored = load(unscaled(model))
    for name, own in model.tensors().items():
        np.testing.assert_array_equal(stored[name] * stored.get(name + KEEP, np.float32(1)), own.numpy())
    assert {name for name in stored if name.endswith(KEEP)} == {
        f"members.0.{layer}.weight.keep" for layer in ("trunk.hidden.0.linear", "trunk.hidden.1.linear", "heads.0")
    }
    assert unscaled(model) == unscaled(bench.model(hidden=[6, 5], dropout={"input": 0.5, "hidden": [0.75, 0.5]}))


def test_each_member_has_its_own_rates(bench: Any) -> None:
    model = bench.model(hidden=[4], size=3, spec={"ensemble": {"size": 3, "vary": {"dropout": [0.0, 0.5, 0.25]}}})
    model = Model(**{**vars_of(model), "networks": varied(bench, model)})
    tensors = tensors_of(model)
    keeps = [tensors.get(f"members.{i}.heads.0.weight{KEEP}") for i in range(3)]
    assert keeps[0] is None
    np.testing.assert_array_equal(keeps[1], [0.5] * 4)
    np.testing.assert_array_equal(keeps[2], [0.75] * 4)


def vars_of(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ("spec", "encoding", "classes", "best", "numbers", "weights")}


def varied(bench: Any, model: Model) -> Any:
    """The members' networks at the rates that the spec has for them."""
    return tuple(bench.model(hidden=[4], dropout=model.spec_of(i).architecture.dropout.dump()).networks[0] for i in range(3))


def test_where_there_is_none_it_says_why(bench: Any) -> None:
    for fields, words in (
        ({"hidden": [4]}, "without dropout"),
        ({"hidden": [4], "dropout": {"hidden": [[0.0] * 4]}}, "without dropout"),
        ({"hidden": [4, 4, 4], "residual": True, "dropout": 0.5}, "without weights"),
        ({"type": "autoencoder", "hidden": [3], "code": 2, "tied": True, "dropout": 0.5}, "shared"),
    ):
        with pytest.raises(NotFound, match=words):
            unscaled(bench.model(**fields))


def test_weights_that_layers_share_are_not_scaled_twice(bench: Any) -> None:
    model = bench.model(hidden=[4, 4], dropout={"hidden": [0.5, 0.2]})
    network = model.networks[0]
    network.trunk.hidden[1].linear.weight = network.trunk.hidden[0].linear.weight
    with pytest.raises(NotFound, match="share"):
        unscaled(model)


def test_an_autoencoder_has_it_too() -> None:
    """Encoder, decoder and both kinds of heads, of torch's own layers with the other weights."""
    net = TypeAdapter[Any](Architecture).validate_python(
        {
            "type": "autoencoder",
            "hidden": [6, 5],
            "code": 3,
            "dropout": {"input": 0.1, "hidden": [0.5, [0.2, 0.0, 0.9, 0.3, 0.4], 0.25, 0.6]},
        }
    )
    targets = TypeAdapter[Any](tuple[Target, ...]).validate_python(
        [{"task": "reconstruction", "name": "input"}, {"task": "classification", "name": "kind"}]
    )
    scales = [Scale(torch.zeros(4), torch.ones(4)), Scale(torch.zeros(1), torch.ones(1))]
    spec = NetworkSpec(net, (4,), targets, (4, 3))
    network = Network(spec, Normalize(torch.zeros(1), torch.ones(1)), scales, torch.Generator().manual_seed(0)).double()
    other, keeps = deepcopy(network), kept(network)
    assert len(keeps) == 5, "the layer behind the inputs, three behind hidden ones, and the head of the reconstruction"
    with torch.no_grad():
        for name, keep in keeps.items():
            other.get_parameter(name).div_(keep)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double()
    masks = {
        s.name: draw_mask((8, s.units), s.rate, torch.Generator().manual_seed(i)).double() for i, s in enumerate(network.sites) if s.rate
    }
    trained, found = network(x, Replayed(masks)), other(x, Replayed({name: (mask > 0).double() for name, mask in masks.items()}))
    for name, said in trained.items():
        torch.testing.assert_close(found[name], said, rtol=1e-6, atol=1e-7)
        assert float((other(x)[name] - said).detach().abs().max()) > 0.01
