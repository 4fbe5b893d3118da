"""Steps of a cnn and of resnet-20 over a hand-written loop of the same network: python -m benchmarks.convolutional [--pairs N]

By hand means torch's own modules, channels first in memory, on images that were made numbers before the clock runs, with fused
Adam. Both begin with the same weights, and their losses on the first batch have to agree, so that they are the same network.
The whole loop, which measures a validation part each epoch, is printed beside the steps.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import paired, verdict
from benchmarks.workbench import CPU, of_arrays
from service.inference.material import Material
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

MOST = 1.10
NETS: dict[str, tuple[dict[str, Any], tuple[int, ...], int, int]] = {
    "cnn 32-64, 128, of 28 x 28": ({"type": "cnn", "channels": [32, 64], "hidden": [128]}, (28, 28), 512, 64),
    "cnn 32-64-128, 128, of 32 x 32 x 3": ({"type": "cnn", "channels": [32, 64, 128], "hidden": [128]}, (32, 32, 3), 512, 64),
    "cnn 8-16, 32, of 8 x 8": ({"type": "cnn", "channels": [8, 16], "hidden": [32]}, (8, 8), 2048, 64),
    "resnet-20 of 32 x 32 x 3": ({"type": "resnet", "depth": 20}, (32, 32, 3), 256, 128),
}
"""By name: architecture, shape of an image, images of an epoch, batch size."""


def made(architecture: dict[str, Any], shape: tuple[int, ...], rows: int, batch: int, **fields: Any) -> Material:
    """An epoch of random images."""
    stream = np.random.default_rng(0)
    x, y = stream.integers(0, 256, (rows, *shape), dtype=np.uint8), np.arange(rows) % 10
    told = {"architecture": architecture, "batch_size": batch, "epochs": 1, "early_stopping": None, **fields}
    return of_arrays(f"pictures-{rows}-{'x'.join(map(str, shape))}", x, y, **told)


def ours(material: Material) -> Callable[[], None]:
    """The training loop."""

    def work() -> None:
        run = start(material, (0,), CPU)
        for _ in train(run, Task(material, run, CPU)):
            pass

    return work


def by_hand(material: Material, network: nn.Module, batch: int) -> Callable[[], None]:
    """The same steps."""
    x, y = at_hand(material)

    def work() -> None:
        run = start(material, (0,), CPU)
        adopt(network, run.network)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        order = torch.randperm(len(x), generator=run.only.streams["order"])
        for chosen in order.split(batch):
            loss = F.cross_entropy(network(x[chosen]), y[chosen])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return work


def at_hand(material: Material) -> tuple[Tensor, Tensor]:
    """All training rows as normalized numbers [N, C, H, W], and their classes."""
    rows = torch.from_numpy(material.parts.train)
    x = material.preprocess(torch.from_numpy(material.inputs[material.parts.train]))
    x = x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1)
    return x.contiguous(), material.labels["y"][rows]


def adopt(network: nn.Module, source: nn.Module) -> None:
    """Take over the parameters of ours, which come in the same order."""
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), source.parameters(), strict=True):
            mine.copy_(theirs)


def check_same(material: Material, network: nn.Module) -> None:
    """Ends the benchmark where the two do not say the same of the same rows."""
    run = start(material, (0,), CPU)
    adopt(network, run.network)
    some = material.parts.train[:32]
    with torch.no_grad():
        said = run.network.train()(torch.from_numpy(material.inputs[some]))["y"]
        torch.testing.assert_close(network.train()(at_hand(material)[0][: len(some)]), said, rtol=1e-3, atol=1e-4)


def plain_cnn(architecture: dict[str, Any], shape: tuple[int, ...]) -> nn.Module:
    """The cnn in torch's modules."""
    layers: list[nn.Module] = []
    before, extent = shape[2] if len(shape) == 3 else 1, shape[0]
    for channels in architecture["channels"]:
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before, extent = channels, extent // 2
    layers.append(nn.Flatten())
    before *= extent**2
    for width in architecture["hidden"]:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 10))


class Block(nn.Module):
    """Two convolutions and their bridge, which has no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        found = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(found + x)


def plain_resnet(blocks: int = 3, width: int = 16) -> nn.Module:
    """The resnet in torch's modules."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(Block(before, width << stage, 2 if stage and not block else 1))
            before = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    held = []
    for name, (architecture, shape, rows, batch) in NETS.items():
        network = plain_cnn(architecture, shape) if architecture["type"] == "cnn" else plain_resnet()
        steps = made(architecture, shape, rows, batch, split={"test": 0})
        check_same(steps, network)
        held.append(verdict(f"{name}: steps over by hand", paired(ours(steps), by_hand(steps, network, batch), pairs=pairs), MOST))
        whole = made(architecture, shape, rows, batch, split={"validation": 0.15, "test": 0})
        ratio = paired(ours(whole), by_hand(whole, network, batch), pairs=max(3, pairs // 4))
        print(f"{'    the whole loop with 15 % for validation':44s} {ratio}", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
