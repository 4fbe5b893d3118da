"""Projections against a deconvnet written out, against the transposed matrix, and against what they are gradients of."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from service.nets import Architecture
from service.nets.network import Network, NetworkSpec, Scale
from service.nets.projection import convolutions, peaks, project
from service.tricks.multitask import Target
from service.tricks.normalization import Normalize

SHAPE, SEQUENCE = (8, 8, 2), (12, 3)
CONVOLUTION, RELU = {"type": "convolution", "channels": 2}, {"type": "activation"}
AGAIN = [CONVOLUTION, {"type": "batch_norm"}, RELU, {"type": "max_pool"}, {"type": "share", "as": "convolution.0"}]
NETS: dict[str, dict[str, Any]] = {
    "cnn": {"type": "cnn", "channels": [3, 4], "hidden": [5], "batch_norm": True},
    "wide steps": {"type": "cnn", "channels": [3, 4], "kernel": 4, "stride": 2, "pool": "none", "hidden": [], "activation": "sigmoid"},
    "tanh": {"type": "cnn", "channels": [3, 4], "pool": "average", "activation": "tanh"},
    "resnet": {"type": "resnet", "depth": 8, "width": 2},
    "preactivation": {"type": "resnet", "depth": 8, "width": 2, "block": "preactivation"},
    "bottleneck": {"type": "resnet", "depth": 11, "width": 2, "block": "bottleneck"},
    "autoencoder": {"type": "conv_autoencoder", "channels": [3, 4], "code": 5},
    "unpooling": {"type": "conv_autoencoder", "channels": [3, 4], "upsampling": "unpooling"},
    "layers": {"type": "layers", "layers": [*AGAIN, {"type": "residual", "layers": [CONVOLUTION, RELU]}, RELU]},
}


def built(shape: tuple[int, ...] = SHAPE, **architecture: Any) -> Network:
    """A network in service, in float64, whose gains and statistics are not 0 and 1; inputs are normalized by (x - 1) / 2."""
    task = "reconstruction" if architecture["type"] == "conv_autoencoder" else "classification"
    target = TypeAdapter(Target).validate_python({"name": "y", "task": task})
    spec = NetworkSpec(
        TypeAdapter(Architecture).validate_python(architecture), shape, (target,), (3,), kind="image" if len(shape) == 3 else "tensor"
    )
    scale = Scale(torch.zeros(1), torch.ones(1))
    stream = torch.Generator().manual_seed(0)
    network = Network(spec, Normalize(torch.tensor(1.0), torch.tensor(2.0)), [scale], stream).double()
    with torch.no_grad():
        for name, tensor in network.learned().items():
            if "norm" in name:  # some gains are negative
                tensor.copy_(torch.rand(tensor.shape, generator=stream) + (0.5 if "running_var" in name else -0.3))
    return network.eval().requires_grad_(False)


def rows(shape: tuple[int, ...] = SHAPE, count: int = 4) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + 1


def every(network: Network, layer: str, count: int) -> Tensor:
    """All channels of a layer, for each row."""
    return torch.arange(convolutions(network)[layer]).expand(count, -1)


def seeds(features: Tensor) -> list[Tensor]:
    """Of features [N, C, *S], channel by channel, all silent but the strongest place."""
    flat = features.flatten(2)
    found = []
    for channel in range(flat.shape[1]):
        seed = torch.zeros_like(flat)
        value, place = flat[:, channel].max(-1)
        seed[torch.arange(len(flat)), channel, place] = value.clamp(min=0)
        found.append(seed.view_as(features))
    return found


def test_a_deconvnet_written_out() -> None:
    """Switches, rectified signals, and filters flipped by hand, of two convolutions with batch norm and pooling."""
    network, x = built(**NETS["cnn"]), rows()
    z = ((x - 1) / 2).movedim(-1, 1)
    stages, switches = list(network.trunk.conv), []
    features = z
    for stage in stages:
        norm = stage.norm
        normed = F.batch_norm(F.conv2d(features, stage.conv.weight, padding=1), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        features, where = F.max_pool2d(F.relu(normed), 2, return_indices=True)
        switches.append(where)
    signals = []
    for seed in seeds(features):
        signal = seed
        for stage, where in zip(reversed(stages), reversed(switches), strict=True):
            signal = F.relu(F.max_unpool2d(signal, where, 2))
            signal = signal * (stage.norm.weight / (stage.norm.running_var + stage.norm.eps).sqrt()).view(-1, 1, 1)
            signal = F.conv2d(signal, stage.conv.weight.transpose(0, 1).flip(2, 3), padding=1)
        signals.append(signal.movedim(1, -1))
    found, projected = project(network, "conv.1", x, every(network, "conv.1", len(x)))
    torch.testing.assert_close(found.values, features.flatten(2).amax(-1))
    torch.testing.assert_close(projected, torch.stack(signals, 1), rtol=1e-12, atol=1e-12)
    assert (projected != 0).any()


def test_a_layer_that_is_used_again_is_projected_at_its_last_use() -> None:
    """The deconvnet of two uses of the same filters, with switches in between; the first use alone would not reach as far."""
    network, x = built(type="layers", layers=AGAIN), rows()
    steps = network.trunk.steps
    weight, bias, norm = steps["convolution.0"].conv.weight, steps["convolution.0"].conv.bias, steps["batch_norm.0"].norm
    first = F.conv2d(((x - 1) / 2).movedim(-1, 1), weight, bias, padding=1)
    normed = F.batch_norm(first, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    pooled, where = F.max_pool2d(F.relu(normed), 2, return_indices=True)
    features, gain = F.conv2d(pooled, weight, bias, padding=1), norm.weight / (norm.running_var + norm.eps).sqrt()
    signals = []
    for seed in seeds(features):
        signal = F.relu(F.max_unpool2d(F.conv_transpose2d(seed, weight, padding=1), where, 2))
        signals.append(F.conv_transpose2d(signal * gain.view(-1, 1, 1), weight, padding=1).movedim(1, -1))
    found, projected = project(network, "convolution.0", x, every(network, "convolution.0", len(x)))
    assert (list(convolutions(network)), found.space) == (["convolution.0"], (4, 4))
    torch.testing.assert_close(found.values, features.flatten(2).amax(-1))
    torch.testing.assert_close(projected, torch.stack(signals, 1), rtol=1e-12, atol=1e-12)
    assert (projected != 0).any()


def test_a_residual_block_written_out() -> None:
    """The signal of a sum goes to both sides, rectified where they join; a bridge that halves and pads, transposed, spreads and cuts."""
    network, x = built(**NETS["resnet"]), rows()
    (stem, first, second), name = (network.trunk.stem, *network.trunk.blocks()[:2]), "stage.1.block.0.conv.1"

    def up(signal: Tensor, layer: Any, stride: int = 1) -> Tensor:
        gain = (layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()).view(-1, 1, 1)
        return F.conv_transpose2d(signal * gain, layer.conv.weight, stride=stride, padding=1, output_padding=stride - 1)

    before = F.relu(stem((x - 1).movedim(-1, 1) / 2))
    middle = first(before)
    features = second.conv[1](F.relu(second.conv[0](middle)))
    signals = []
    for seed in seeds(features):
        signal = up(F.relu(up(seed, second.conv[1])), second.conv[0], stride=2)
        signal = F.relu(signal)  # where the first block ends
        signal = F.relu(up(F.relu(up(signal, first.conv[1])), first.conv[0]) + signal)
        signals.append(up(signal, stem).movedim(1, -1))
    _, projected = project(network, name, x, every(network, name, len(x)))
    torch.testing.assert_close(projected, torch.stack(signals, 1), rtol=1e-11, atol=1e-12)
    # Through the whole second block: the bridge takes its share of what the next layer asks.
    after = "stage.2.block.0.conv.0"
    third = network.trunk.blocks()[2].conv[0]
    seed = seeds(third(second(middle)))[0]
    signal = F.relu(up(seed, third, stride=2))
    spread = torch.zeros_like(middle)
    spread[..., ::2, ::2] = signal[:, : middle.shape[1]]
    signal = F.relu(up(F.relu(up(signal, second.conv[1])), second.conv[0], stride=2) + spread)
    signal = F.relu(up(F.relu(up(signal, first.conv[1])), first.conv[0]) + signal)
    _, projected = project(network, after, x, torch.zeros(len(x), 1, dtype=torch.int64))
    torch.testing.assert_close(projected[:, 0], up(signal, stem).movedim(1, -1), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("shape", "kernel", "stride"), [(SHAPE, 3, 1), (SHAPE, 5, 2), (SHAPE, 2, 1), (SEQUENCE, 3, 1), (SEQUENCE, 4, 3)])
def test_without_rectification_it_is_the_transposed_map(shape: tuple[int, ...], kernel: int, stride: int) -> None:
    """Of a linear network: <W x, y> = <x, W^T y>, and W^T y is the row of the matrix that the unit has."""
    net = {"type": "cnn", "channels": [3, 4], "kernel": kernel, "stride": stride, "pool": "none", "activation": "identity"}
    network, x, other = built(shape, **net), rows(shape), rows(shape, 9)[5:]
    found, projected = project(network, "conv.1", x, every(network, "conv.1", len(x)), rectify=False)

    def unit(inputs: Tensor) -> Tensor:
        """What the units that were strongest on x give of other rows, value by value as y."""
        features = network.trunk.conv[1](network.trunk.conv[0](((inputs - 1) / 2).movedim(-1, 1))).flatten(2)
        return (features.gather(2, found.places.unsqueeze(-1)).squeeze(-1)) * found.values

    difference = (x - other) / 2
    torch.testing.assert_close(unit(x) - unit(other), (projected * difference.unsqueeze(1)).flatten(2).sum(-1), rtol=1e-10, atol=1e-10)
    assert torch.equal(projected, project(network, "conv.1", x, every(network, "conv.1", len(x)), rectify=False)[1])


def test_switches_put_values_back_where_they_came_from() -> None:
    """A convolution that copies its inputs, and pooling: what comes back is each map's maximum in its own place."""
    network, x = built(type="cnn", channels=[2], kernel=1, hidden=[]), rows()
    network.trunk.conv[0].conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
    network.trunk.conv[0].conv.bias.zero_()
    z = (x - 1) / 2
    found, projected = project(network, "conv.0", x, every(network, "conv.0", len(x)))
    expected = torch.zeros_like(projected)
    for row in range(len(x)):
        for channel in range(2):
            place = divmod(int(z[row, ..., channel].argmax()), 8)
            expected[row, channel, *place, channel] = z[row, ..., channel].max()
            assert divmod(int(found.places[row, channel]), 4) == (place[0] // 2, place[1] // 2)
    assert torch.equal(projected, expected)


def test_one_convolution_is_its_transposed_convolution() -> None:
    network, x = built(type="cnn", channels=[5], pool="none", hidden=[]), rows()
    layer = network.trunk.conv[0].conv
    features = F.relu(layer(((x - 1) / 2).movedim(-1, 1)))
    expected = [F.conv_transpose2d(seed, layer.weight, padding=1).movedim(1, -1) for seed in seeds(features)]
    # The rectifier of its own layer finds nothing to take away: what is projected is positive.
    torch.testing.assert_close(project(network, "conv.0", x, every(network, "conv.0", len(x)))[1], torch.stack(expected, 1))


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_it_is_the_gradient_where_nothing_is_rectified(activation: str) -> None:
    """Of half the squared value; a net with rectifiers has another rule for its slopes, and so another picture."""
    network, x = built(type="cnn", channels=[3, 4], activation=activation), rows()
    leaf = x.clone().requires_grad_(True)
    features = network.trunk.conv[1](network.trunk.conv[0](((leaf - 1) / 2).movedim(-1, 1))).flatten(2)
    strongest = features.amax(-1)[:, 2]
    (slope,) = torch.autograd.grad(strongest.square().sum() / 2, leaf)
    _, projected = project(network, "conv.1", x, torch.full((len(x), 1), 2))
    same = torch.allclose(projected[:, 0], slope * 2, rtol=1e-12, atol=1e-12)  # by normalized inputs, which are half as far apart
    assert same == (activation == "identity")


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_every_net_is_projected(name: str) -> None:
    network, x = built(**NETS[name]), rows()
    for layer, count in convolutions(network).items():
        found, projected = project(network, layer, x, every(network, layer, len(x)))
        assert projected.shape == (len(x), count, *SHAPE)
        assert projected.isfinite().all()
        assert torch.equal(found.values, peaks(network, layer, x).values)
        silent = found.values <= 0
        assert not projected[silent].any(), "what is silent shows nothing"


def test_the_network_is_left_as_it_was() -> None:
    network, x = built(**NETS["cnn"]), rows()
    before, hooks = copy.deepcopy(network.state_dict()), [len(module._forward_hooks) for module in network.modules()]
    project(network, "conv.1", x, every(network, "conv.1", len(x)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [len(module._forward_hooks) for module in network.modules()] == hooks
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not x.requires_grad
    slope = torch.autograd.functional.jacobian(F.relu, torch.tensor([-1.0, 1.0]))
    assert slope.tolist() == [[0.0, 0.0], [0.0, 1.0]], "activations are themselves again"
