"""The picture of named layers: parameters of networks over digits, and those that there would be without sharing."""

from typing import Any

import torch
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from service.inference.plots.canvas import BLUE, ORANGE
from service.nets import Architecture
from service.nets.network import Network, NetworkSpec, Scale
from service.tricks.multitask import Classification, Reconstruction
from service.tricks.normalization import Normalize

SHAPE = (8, 8)
CONVOLUTION = {"type": "convolution", "channels": 16}
NETS: dict[str, dict[str, Any]] = {
    "mlp": {"type": "mlp", "hidden": [128]},
    "cnn": {"type": "cnn", "channels": [16, 32]},
    "resnet of 20 layers": {"type": "resnet"},
    "conv_autoencoder, tied": {"type": "conv_autoencoder", "channels": [16, 32], "kernel": 4, "code": 16, "tied": True},
    "layers: one convolution, six times": {
        "type": "layers",
        "layers": [CONVOLUTION, {**CONVOLUTION, "name": "again"}, *[{"type": "share", "as": "again"}] * 5, {"type": "average_pool"}],
    },
}


def counted(net: dict[str, Any]) -> tuple[int, int]:
    """Parameters, and those without sharing."""
    architecture = TypeAdapter[Any](Architecture).validate_python(net)
    target: Any = Reconstruction(name="input") if architecture.reconstructs else Classification(name="label")
    with torch.device("meta"):
        scale, plain = Scale(torch.zeros(1), torch.ones(1)), Normalize(torch.zeros(1), torch.ones(1))
        width = 64 if architecture.reconstructs else 10
        network = Network(NetworkSpec(architecture, SHAPE, (target,), (width,), kind="image"), plain, [scale], None)
    return sum(parameter.numel() for parameter in network.parameters()), network.sharing.unshared


def draw(figure: Figure) -> None:
    """Two bars for each network."""
    axes = figure.subplots()
    for place, (name, net) in enumerate(reversed(NETS.items())):
        own, unshared = counted(net)
        for shift, count, color in ((0.18, own, BLUE), (-0.18, unshared, ORANGE)):
            axes.barh(place + shift, count, height=0.34, color=color)
            axes.text(count * 1.08, place + shift, f"{count:,}", va="center", fontsize=8)
        axes.text(1100, place + 0.44, name, fontsize=8)
    axes.set(xscale="log", xlim=(1000, 3e7), ylim=(-0.45, 4.7), yticks=[], xlabel="parameters")
    axes.set_title("stored (blue), and without sharing between places and layers (orange)")
