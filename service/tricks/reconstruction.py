"""The inputs themselves as a target: what an autoencoder is trained on, in normalized units or in the inputs' own.

With mean m and standard deviation s of the training rows, an error in the inputs' own unit is s (z - z') of normalized z and z':
the squared error is weighted by the variances.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.data.columns import Columns
from service.onnx.graph import Graph
from service.tricks.choices import Only
from service.tricks.normalization import ROUNDING, beyond_rounding
from service.tricks.targets import Distribution, Given, Head, Labelled, Nodes


class Reconstruction(Head):
    """All D entries of an encoded row, flat. A constant entry has standard deviation 0 and is always taken for its one value.

    Raw outputs and labels are normalized with the loss mse; with mse_original deviations from the mean, in the inputs' own unit.
    """

    from_inputs: ClassVar[bool] = True
    says: ClassVar[Literal["classes", "numbers"]] = "numbers"
    shown: ClassVar[tuple[str, ...]] = ("error_normalized", "error_original", "loss")
    halves: ClassVar[bool] = True

    task: Literal["reconstruction"] = "reconstruction"
    """The inputs."""
    name: Annotated[str, Field(min_length=1, max_length=1000, examples=["input"])]
    """What the answer is called; it need not be a field."""
    loss: Literal["mse", "mse_original"] = "mse"
    """Squared error in normalized units, or in the inputs' own."""
    noise_std: Annotated[Any, Only(None)] = None
    """Observation noise in the target's unit."""

    def width(self, columns: Columns, shape: tuple[int, ...]) -> int:
        return math.prod(shape)

    def read_labels(self, columns: Columns) -> Tensor:
        """Of each row nothing: they are the inputs."""
        return torch.empty((columns.rows, 0))

    def labelled(self, given: Given) -> Labelled:
        """No labels, for they are the inputs; the shift and the scale of every entry, 0 where it is constant."""
        shape, normalize = given.inputs.shape[1:], given.preprocess
        scale = torch.where(torch.from_numpy(normalize.constant), 0.0, normalize.scale)
        mean, std = (part.expand(shape).flatten().clone() for part in (normalize.shift, scale))
        return Labelled(torch.empty((len(given.inputs), 0)), math.prod(shape), mean, std)

    def in_unit(self, raw: Tensor, std: Tensor) -> Tensor:
        """Normalized outputs [.., N, D] in the unit of the loss; 0, the mean, where an entry is constant."""
        return raw * self.factor(std)

    def factor(self, std: Tensor) -> Tensor:
        """What normalized outputs are multiplied by to be in that unit [D]."""
        return std if self.loss == "mse_original" else (std > 0).to(std.dtype)

    def labels(self, z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Normalized rows [.., N, D] in the unit of the loss; a constant entry's deviation, 0 where it is rounding."""
        if bool((std == 0).any()):
            z = torch.where(std > 0, z, beyond_rounding(z, mean))
        return z * divisor(std) if self.loss == "mse_original" else z

    def missing(self, labels: Tensor) -> Tensor:
        """No row: gaps of inputs are filled before a network sees them."""
        return torch.zeros(labels.shape[:-1], dtype=torch.bool, device=labels.device)

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Squared error per row [.., N], the mean over entries."""
        return (raw - labels).square().mean(-1)

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The reconstruction in the inputs' own unit."""
        return Distribution(mean=(raw if self.loss == "mse_original" else raw * std) + mean)

    def exported(self, graph: Graph, raw: str, mean: Tensor, std: Tensor) -> Nodes:
        shift, scale = (graph.constant(part.cpu().numpy()) for part in (mean, std))
        return Nodes(mean=graph.add("Add", raw if self.loss == "mse_original" else graph.add("Mul", raw, scale), shift))

    def scores(self, raw: Tensor, labels: Tensor, std: Tensor) -> dict[str, Tensor]:
        difference, scale = raw - labels, divisor(std)
        loss = difference.square().mean(-1)
        if self.loss == "mse_original":
            return {"loss": loss, "normalized": (difference / scale).square().mean(-1), "original": loss}
        return {"loss": loss, "normalized": loss, "original": (difference * scale).square().mean(-1)}

    @property
    def scored(self) -> tuple[str, ...]:
        return ("loss", "normalized", "original")

    def means(self, sums: Mapping[str, float], rows: float) -> dict[str, float]:
        errors = {f"error_{unit}": sums[unit] / rows for unit in ("normalized", "original")}
        return {"loss": sums["loss"] / rows, **errors}

    @property
    def quick(self) -> tuple[str, ...]:
        return ("loss", "error_normalized", "error_original")


def divisor(std: Tensor) -> Tensor:
    """What entries were divided by: constant ones by 1."""
    return torch.where(std > 0, std, 1.0)


def deviation(said: Tensor, truth: Tensor, std: Tensor) -> Tensor:
    """What a reconstruction [N, D] deviates by, in the inputs' own unit; a constant entry's rounding, as of the training rows, is none."""
    difference = said - truth
    return torch.where(std > 0, difference, beyond_rounding(difference, said)) if bool((std == 0).any()) else difference


def errors(said: Tensor, truth: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors per row [N], means over entries, in normalized units and in the inputs' own."""
    difference = deviation(said, truth, std)
    return (difference / divisor(std)).square().mean(-1), difference.square().mean(-1)


def exported_error(graph: Graph, said: str, truth: str, std: Tensor) -> str:
    """The ONNX operators of the second of `errors` [N], of reconstructions and rows [N, D]."""
    difference = graph.add("Sub", said, truth)
    if bool((std == 0).any()):
        rounding = graph.add("Mul", graph.add("Abs", said), graph.real(1.5 * ROUNDING))
        none = graph.add("And", graph.add("LessOrEqual", graph.add("Abs", difference), rounding), _constant(graph, std))
        difference = graph.add("Where", none, graph.real(0.0), difference)
    return graph.add("ReduceMean", graph.add("Mul", difference, difference), graph.numbers(-1), keepdims=0)


def _constant(graph: Graph, std: Tensor) -> str:
    """Which entries are constant, as truth values."""
    return graph.add("Not", graph.add("Cast", graph.constant(std.cpu().numpy()), to=9))  # TensorProto.BOOL
