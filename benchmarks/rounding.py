"""How far the ONNX file of a deep residual network is from the service, and both from the same network in float64.

    python -m benchmarks.rounding

Networks of 56 layers over 64 random images of digits' size, as they begin, and after batch norm has taken its batches' statistics.
"""

import sys
from copy import deepcopy

import onnxruntime
import torch
from torch import Tensor

from service.nets.network import Network, NetworkSpec, Scale
from service.nets.resnet import ResNet
from service.onnx.graph import Graph
from service.tricks.multitask import Classification
from service.tricks.normalization import Normalize

SHAPE, CLASSES, PASSES = (8, 8), 10, 60


def made(width: int, seed: int) -> Network:
    """A network as it begins."""
    spec = NetworkSpec(ResNet(depth=56, width=width), SHAPE, (Classification(name="label"),), (CLASSES,), kind="image")
    shift, scale = Normalize(torch.full((1,), 5.0), torch.full((1,), 6.0)), Scale(torch.zeros(1), torch.ones(1))
    return Network(spec, shift, [scale], torch.Generator().manual_seed(seed)).eval()


def by_file(network: Network, x: Tensor) -> Tensor:
    """The logits that ONNX Runtime gives."""
    graph = Graph()
    _, said = network.exported(graph, graph.take("input", SHAPE))
    graph.give("raw", said["label"], (CLASSES,))
    session = onnxruntime.InferenceSession(graph.encode({}), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["raw"], {"input": x.numpy()})[0])


@torch.no_grad()
def compare(network: Network, x: Tensor, name: str) -> tuple[float, float]:
    """Print the largest logit and differences; those of logits relative to it, and of probabilities, between service and file."""
    own, exact, file = network(x)["label"], deepcopy(network).double()(x.double())["label"], by_file(network, x)
    largest = float(exact.abs().max())
    ours, theirs, apart = (float((one - two).abs().max()) / largest for one, two in ((own, exact), (file, exact), (own, file)))
    shares = float((own.softmax(1) - file.softmax(1)).abs().max())
    print(f"{name:24s} largest {largest:8.1f}  service {ours:.1e}  file {theirs:.1e}  apart {apart:.1e}  shares {shares:.1e}")
    return apart, shares


def verdict(name: str, value: float, most: float) -> bool:
    """Print a figure and whether it holds."""
    print(f"{name}: {value:.1e}, at most {most:.0e}: {'holds' if value <= most else 'FALLS SHORT'}")
    return value <= most


def main() -> int:
    """All widths and seeds; 1 where a bound falls short."""
    torch.set_num_threads(1)
    x = torch.randint(0, 17, (64, *SHAPE), generator=torch.Generator().manual_seed(1)).float()
    begun, taken = [], []
    for width in (4, 8, 16):
        for seed in range(3):
            network = made(width, seed)
            begun.append(compare(network, x, f"{width} {seed} begun"))
            network.train()
            with torch.no_grad():
                for _ in range(PASSES):
                    network(x)
            taken.append(compare(network.eval(), x, f"{width} {seed} statistics"))
    held = [verdict("logits as networks begin, relative to the largest", max(apart for apart, _ in begun), 1e-5)]
    held.append(verdict("probabilities as networks begin", max(shares for _, shares in begun), 1e-5))
    held.append(verdict("probabilities with statistics", max(shares for _, shares in taken), 1e-5))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
