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


@pytest.mark.parametrize(("rows", "fields"), NETS, ids=lambda part: "-".join(map(str, part.values())) if isinstance(part, dict) else "")
def test_what_a_row_holds(rows: tuple[tuple[int, ...], str], fields: dict[str, Any]) -> None:
    shape, kind = rows
    architecture = TypeAdapter[Any](Architecture).validate_python(fields)
    trunk = architecture.build(shape, torch.Generator().manual_seed(0), kind=kind)
    x = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(0))
    assert 4 * trunk.held() * ROWS == pytest.approx(saved(trunk, x, reconstructs=architecture.reconstructs), rel=0.15)
