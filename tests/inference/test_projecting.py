"""Answers of projections: whose, which and how many, and what is refused where."""

from typing import Any

import numpy as np
import pytest
import torch

from service.errors import Invalid, TooLarge
from service.inference import projecting
from service.inference.projecting import ProjectRequest, answer, strongest
from service.nets.projection import peaks

SHAPE = (6, 6, 2)
CNN = {"type": "cnn", "channels": [3, 12], "hidden": [4]}


@pytest.fixture(scope="module")
def model(bench: Any) -> Any:
    return bench.model(encoding=bench.encoding(shape=SHAPE), size=2, **CNN)


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


def asked(model: Any, images: Any, **fields: Any) -> dict[str, Any]:
    return answer(model, ProjectRequest.model_validate({"inputs": images.tolist(), **fields}), most_rows=10)


def test_the_strongest_channels_come_first(model: Any, images: Any) -> None:
    found = asked(model, images, layer="conv.1", strongest=4)
    values = peaks(model.networks[0], "conv.1", torch.from_numpy(images)).values
    assert {name: found[name] for name in ("members", "layer", "shape", "rectify", "rows")} == {
        "members": 0, "layer": "conv.1", "shape": [1, 1, 12], "rectify": True, "rows": 3,
    }  # fmt: skip
    assert np.shape(found["projections"]) == (3, 4, *SHAPE)
    assert np.shape(found["places"]) == (3, 4, 2)
    for row in range(3):
        order = sorted(range(12), key=lambda channel: (-float(values[row, channel]), channel))
        assert found["channels"][row] == order[:4]
        assert found["values"][row] == [float(values[row, channel]) for channel in order[:4]]


def test_equal_channels_go_by_their_numbers() -> None:
    assert strongest(torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]]), 4).tolist() == [[1, 3, 0, 2]]


def test_places_and_channels_are_the_layers_own(model: Any, images: Any) -> None:
    found = asked(model, images, layer="conv.0", channels=[2, 0], members=1)
    assert (found["members"], found["channels"]) == (1, [[2, 0]] * 3)
    network = model.networks[1]
    with torch.no_grad():
        features = network.trunk.conv[0](network.preprocess(torch.from_numpy(images)).movedim(-1, 1))
    for row in range(3):
        for channel, place, value in zip([2, 0], found["places"][row], found["values"][row], strict=True):
            assert float(features[row, channel, *place]) == pytest.approx(value, rel=1e-5)
    assert len(asked(model, images, layer="conv.0")["channels"][0]) == 3, "there are no more"


def test_rows_do_not_know_of_each_other(model: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    together = asked(model, images, layer="conv.1")
    monkeypatch.setattr(projecting, "CHUNK_ENTRIES", 1)
    assert asked(model, images, layer="conv.1")["channels"] == together["channels"]
    alone = asked(model, images[1:2], layer="conv.1")
    np.testing.assert_allclose(alone["projections"][0], together["projections"][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"layer": "conv.2"}, "/layer", "unknown-choice"),
        ({"layer": "hidden.0"}, "/layer", "unknown-choice"),
        ({"layer": "conv.0", "channels": [0, 3]}, "/channels/1", "value-out-of-range"),
        ({"layer": "conv.0", "channels": [0], "strongest": 1}, "/strongest", "inconsistent-spec"),
        ({"layer": "conv.0", "members": 2}, "/members", "value-out-of-range"),
        ({"layer": "conv.0", "inputs": [[[[0.0] * 2] * 6] * 5]}, "/inputs/0", "shape-mismatch"),
    ],
)
def test_what_cannot_be_is_pointed_at(model: Any, images: Any, fields: dict[str, Any], pointer: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        asked(model, images, **fields)
    assert [(flaw.pointer, flaw.code) for flaw in refused.value.flaws] == [(pointer, code)]


def test_a_dense_network_has_no_places(bench: Any) -> None:
    with pytest.raises(Invalid) as refused:
        asked(bench.model(hidden=[4]), np.zeros((1, 4)), layer="hidden.0")
    assert [(flaw.pointer, flaw.code) for flaw in refused.value.flaws] == [("/layer", "inconsistent-spec")]
    assert "mlp" in refused.value.detail


@pytest.mark.parametrize("bound", ["MOST_NUMBERS", "MOST_PRODUCTS"])
def test_too_much_is_refused(model: Any, images: Any, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projecting, bound, 100)
    with pytest.raises(TooLarge):
        asked(model, images, layer="conv.1")
