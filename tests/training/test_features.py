"""What the pictures of features and gradients show: which filters, channels, rows and windows, and which lines."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
import torch

from service.inference import features as module
from service.inference.features import features
from service.inference.measuring import Inquiry
from service.inference.plots.features import features as drawn
from service.inference.plots.features import signed, tile
from service.inference.plots.gradients import gradients
from service.nets.projection import peaks

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: bytes) -> set[str]:
    return {"".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")}


@pytest.fixture(scope="module")
def inquiry(bench: Any) -> Inquiry:
    material = bench.material("digits", architecture={"type": "cnn", "channels": [3, 10], "hidden": [4]}, epochs=1)
    return Inquiry(bench.model(material, bench.train(material)), material)


def untrained(bench: Any, dataset: str, architecture: dict[str, Any]) -> Inquiry:
    material = bench.material(dataset, architecture=architecture, epochs=1, max_steps=1)
    return Inquiry(bench.model(material, bench.train(material)), material)


def test_features_are_the_first_filters_and_the_rows_of_the_strongest_channels(inquiry: Inquiry) -> None:
    found = features(inquiry)
    assert found is not None
    network, (sight,) = inquiry.model.networks[0], found.sights
    assert (found.layer, sight.layer) == ("conv.0", "conv.1"), "what the first one sees are its filters"
    np.testing.assert_array_equal(found.filters, network.trunk.conv[0].conv.weight.movedim(1, -1).numpy())
    rows = inquiry.parts["test"][np.linspace(0, len(inquiry.parts["test"]) - 1, 200).astype(int)]
    x = torch.from_numpy(inquiry.material.inputs[rows]).float()
    values = peaks(network, "conv.1", x).values
    assert sight.channels == values.amax(0).sort(descending=True).indices[:8].tolist()
    for channel, window in zip(sight.channels, sight.rows, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(x[int(values[:, channel].argmax())].numpy(), window.shape)
        assert (windows == window).all((-1, -2)).any(), "a part of the row that the channel answers to most"
    assert sight.rows.shape == sight.projections.shape
    svg = drawn(found)
    assert {"filters of conv.0", "conv.1", "row", "seen", *map(str, sight.channels)} <= texts(svg)


def test_windows_hold_all_that_is_reached_and_have_one_size() -> None:
    rows = np.arange(2 * 6 * 7, dtype=np.float32).reshape(2, 6, 7)
    reached = np.zeros(rows.shape, dtype=bool)
    reached[0, 0:2, 5:7] = reached[1, 3:6, 2] = True
    cut, same = module._cut(rows, rows, reached, 2)
    assert cut.shape == (2, 3, 2)
    np.testing.assert_array_equal(cut, same)
    np.testing.assert_array_equal(cut[0], rows[0, 0:3, 5:7])
    assert set(rows[1, 3:6, 2]) <= set(cut[1].ravel())
    assert module._cut(rows, rows, np.zeros_like(reached), 2)[0].shape == rows.shape, "what sees nothing is shown whole"


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ({"type": "mlp", "hidden": [40]}, "hidden.0"),
        ({"type": "mlp", "hidden": []}, "head.label"),
        ({"type": "layers", "layers": [{"type": "flatten"}, {"type": "linear", "width": 5}]}, "linear.0"),
    ],
)
def test_filters_of_a_dense_net_are_what_its_units_weigh_pixels_by(bench: Any, architecture: dict[str, Any], layer: str) -> None:
    """A filter's products with a row are what the layer makes of it, biases left out."""
    inquiry = untrained(bench, "digits", architecture)
    found, network = features(inquiry), inquiry.model.networks[0]
    assert found is not None
    assert (found.layer, found.filters.shape[1:], found.sights) == (layer, (8, 8), [])
    pixels = torch.eye(64, dtype=torch.float32)
    (linear,) = (module for module in network.layers()[layer].modules() if isinstance(module, torch.nn.Linear))
    answers = (linear(pixels) - linear.bias).T.detach().numpy()
    np.testing.assert_allclose(found.filters.reshape(-1, 64), answers[: len(found.filters)], atol=1e-6)
    assert len(found.filters) == min(32, linear.out_features)
    assert f"filters of {layer}" in texts(drawn(found))


def test_what_reads_no_pixels_has_no_filters(bench: Any) -> None:
    assert features(untrained(bench, "diabetes", {"type": "mlp", "hidden": [4]})) is None
    pooled = [{"type": "max_pool"}, {"type": "flatten"}, {"type": "linear", "width": 5}]
    assert features(untrained(bench, "digits", {"type": "layers", "layers": pooled})) is None


def test_grey_is_nothing_and_colours_stay() -> None:
    assert signed(np.array([-1.0, 0.0, 0.5])).tolist() == [0.0, 0.5, 0.75]
    assert signed(np.zeros(2)).tolist() == [0.5, 0.5]
    assert tile(np.ones((4, 5)), 2).shape == tile(np.ones((4, 5, 2)), 2).shape == tile(np.ones((5, 4)), 1).shape == (4, 5, 3)
    colours = np.random.default_rng(0).random((4, 5, 3))
    np.testing.assert_array_equal(tile(colours, 2), colours)
    assert tile(np.ones((200, 100)), 2).shape == (50, 25, 3)


def test_gradients_have_a_line_for_each_moment(bench: Any) -> None:
    layers = {f"hidden.{i}": {"first": 10.0**-i, "early": 0.5, "best": None} for i in range(9)}
    found: dict[str, Any] = {"steps": {"first": 0, "early": 12, "best": None}, "layers": layers, "over_time": {}, "time_steps": [1, 2, 3]}
    svg = gradients(found, 3)
    names = {node.attrib.get("id") for node in ET.fromstring(svg).iter()}
    assert {"first", "early"} <= names
    assert "best" not in names, "of which nothing is known"
    assert {"Gradient norm by layer, mean of 3 members", "layer, from hidden.0 to hidden.8", "early, step 12"} <= texts(svg)
    moments = {"first": [0.1, 0.0, 0.2], "early": None, "best": [0.1, 0.2, 0.3]}
    few = {name: layers[name] for name in ("hidden.0", "hidden.1")}
    svg = gradients({**found, "layers": few, "over_time": {"hidden.0": moments}}, 1)
    assert {"hidden.0", "hidden.1", "time step", "Gradient norm by time step, of what hidden.0 reads"} <= texts(svg)
