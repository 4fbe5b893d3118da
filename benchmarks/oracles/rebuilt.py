"""A network rebuilt from a model's files, without a word of Temper's code: what the oracles attack."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class Rebuilt(nn.Module):
    """The first member of a ReLU mlp or cnn (2x2 max pooling): normalization inside, so that inputs stay in their own unit."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.shift, self.scale = tensors["preprocess.shift"], tensors["preprocess.scale"]
        names = sorted(name[: -len(".weight")] for name in tensors if name.startswith("members.0.") and name.endswith(".weight"))
        order = [name for name in names if ".trunk." in name] + [name for name in names if ".heads." in name]
        layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in order]
        self.convolutions = [layer for name, layer in zip(order, layers, strict=True) if ".conv." in name]
        self.layers = layers if not self.convolutions else [layer for layer in layers if layer[0].ndim == 2]

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.shift) / self.scale
        if self.convolutions:
            x = x.unsqueeze(1)
        for weight, bias in self.convolutions:
            x = F.max_pool2d(torch.relu(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)), 2)
        x = x.flatten(1)
        for weight, bias in self.layers[:-1]:
            x = torch.relu(F.linear(x, weight, bias))
        return F.linear(x, *self.layers[-1])


def rebuilt(folder: str) -> Rebuilt:
    """The network of a folder's `model.safetensors`, in evaluation."""
    return Rebuilt(load_file(Path(folder) / "model.safetensors")).eval()
