"""What the estimate says that training holds of a row, against the tensors that autograd really saves for the backward pass."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from service.nets import Architecture
from service.tricks.dropout import Site

ROWS = 16
IMAGE, SEQUENCE = ((16, 16, 3), "image"), ((20, 6), "tensor")
DROPOUT = {"hidden": 0.5, "channel": 0.2}
CONVOLUTION, RELU, FLATTEN = {"type": "convolution", "channels": 8}, {"type": "activation"}, {"type": "flatten"}
LINEAR, UP = {"type": "linear", "width": 32}, {"type": "transposed_convolution", "channels": 8, "kernel": 4, "stride": 2}
SILU, MAX, AVERAGE = {"type": "activation", "function": "silu"}, {"type": "max_pool"}, {"type": "average_pool"}
DROP, DROP_CHANNELS = {"type": "dropout", "rate": 0.5}, {"type": "dropout", "rate": 0.2, "channel": True}
BRIDGED = {"type": "residual", "layers": [CONVOLUTION, RELU, CONVOLUTION], "shortcut": [CONVOLUTION]}
LISTS: dict[str, tuple[tuple[tuple[int, ...], str], list[dict[str, Any]]]] = {
    "dense": (IMAGE, [FLATTEN, LINEAR, RELU, DROP, LINEAR, {"type": "layer_norm"}, SILU, LINEAR, RELU]),
    "shared": (IMAGE, [CONVOLUTION, {"type": "batch_norm"}, RELU, MAX, CONVOLUTION, RELU, {"type": "share", "as": "convolution.1"}, SILU]),
    "padded": (IMAGE, [{**CONVOLUTION, "kernel": 2}, SILU, DROP, {**CONVOLUTION, "kernel": 4}, RELU]),
    "bridged": (IMAGE, [CONVOLUTION, {"type": "layer_norm"}, BRIDGED, RELU]),
    "switched": (
        IMAGE,
        [CONVOLUTION, RELU, MAX, {**CONVOLUTION, "stride": 2}, {**RELU, "name": "code"}, UP, {"type": "unpool", "of": "max_pool.0"}],
    ),
    "smeared": (IMAGE, [CONVOLUTION, AVERAGE, {**CONVOLUTION, "name": "code"}, RELU, {"type": "unpool", "of": "average_pool.0"}]),
    # Few channels, so that what layer norm keeps besides, two numbers at each place, is half of all.
    "normed": (IMAGE, [{**CONVOLUTION, "channels": 2}, *[{"type": "layer_norm"}] * 4, RELU]),
    "sequence": (
        SEQUENCE,
        [CONVOLUTION, RELU, DROP_CHANNELS, CONVOLUTION, RELU, FLATTEN, LINEAR, RELU, {"type": "reshape", "shape": [8, 4]}, CONVOLUTION],
    ),
}
NETS: list[tuple[tuple[tuple[int, ...], str], dict[str, Any]]] = [
    (IMAGE, {"type": "mlp", "hidden": [64, 32]}),
    (IMAGE, {"type": "mlp", "hidden": [400, 300, 300], "batch_norm": True, "residual": False, "dropout": 0.5}),
    (SEQUENCE, {"type": "mlp", "hidden": [200] * 5, "activation": "silu", "residual": True}),
    (IMAGE, {"type": "cnn", "channels": [8, 16], "hidden": [32]}),
    (IMAGE, {"type": "cnn", "channels": [8, 16], "batch_norm": True, "activation": "gelu", "pool": "average"}),
    (IMAGE, {"type": "cnn", "channels": [8, 8], "pool": "none", "stride": 2, "dropout": {"hidden": 0.5}}),
    (SEQUENCE, {"type": "cnn", "channels": [8, 16], "dropout": DROPOUT}),
    (IMAGE, {"type": "resnet", "depth": 14, "width": 8}),
    (IMAGE, {"type": "resnet", "depth": 11, "width": 4, "block": "bottleneck", "dropout": {"channel": 0.2}}),
    (IMAGE, {"type": "resnet", "depth": 14, "width": 8, "block": "preactivation", "residual": False}),
    (IMAGE, {"type": "conv_autoencoder", "channels": [8, 16], "kernel": 4, "code": 8}),
    (IMAGE, {"type": "conv_autoencoder", "channels": [8, 16], "kernel": 3, "tied": True}),
    (IMAGE, {"type": "conv_autoencoder", "channels": [8, 16], "upsampling": "unpooling"}),
    (IMAGE, {"type": "autoencoder", "hidden": [128, 64], "code": 8}),
    (SEQUENCE, {"type": "recurrent", "hidden": [32, 16], "dropout": {"hidden": 0.3}}),
    (SEQUENCE, {"type": "recurrent", "cell": "gru", "hidden": [32], "bidirectional": True}),
    (SEQUENCE, {"type": "recurrent", "cell": "rnn", "hidden": [32]}),
]


def saved(trunk: Any, x: Tensor, *, reconstructs: bool) -> int:
    """Bytes of what a forward pass saves, each memory once, parameters left out."""
    head = trunk.head("reconstruction", x[0].numel(), how="torch", generator=None) if reconstructs else torch.nn.Identity()
    own = {parameter.untyped_storage().data_ptr() for module in (trunk, head) for parameter in module.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            found[place] = tensor
        return tensor

    def gate(x: Tensor, site: Site) -> Tensor:
        return x * torch.ones_like(x) if site.rate else x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features, kept = trunk.encode(x, gate)
        head(trunk.decode(features, gate, kept) if reconstructs else features)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def check(rows: tuple[tuple[int, ...], str], fields: dict[str, Any]) -> None:
    """What the trunk counts is what autograd saves."""
    shape, kind = rows
    architecture = TypeAdapter[Any](Architecture).validate_python(fields)
    trunk = architecture.build(shape, torch.Generator().manual_seed(0), kind=kind)
    x = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(0))
    assert 4 * trunk.held() * ROWS == pytest.approx(saved(trunk, x, reconstructs=architecture.reconstructs), rel=0.15)


@pytest.mark.parametrize(("rows", "fields"), NETS, ids=lambda part: "-".join(map(str, part.values())) if isinstance(part, dict) else "")
def test_what_a_row_holds(rows: tuple[tuple[int, ...], str], fields: dict[str, Any]) -> None:
    check(rows, fields)


@pytest.mark.parametrize("name", LISTS)
def test_what_a_row_holds_of_named_layers(name: str) -> None:
    rows, layers = LISTS[name]
    check(rows, {"type": "layers", "layers": layers})
