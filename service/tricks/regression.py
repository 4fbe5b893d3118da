"""Numbers as targets: squared, absolute, Huber and quantile errors, or a Gaussian's likelihood."""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from service.data import fields
from service.data.columns import Columns
from service.data.fields import Description
from service.data.labels import numbers_of
from service.errors import Flaw
from service.onnx.graph import Graph
from service.tricks.choices import AtMost, refuse
from service.tricks.targets import Distribution, Given, Head, Labelled, Nodes, absent, plain_scale
from service.values import ITEMS

VARIANCE_FLOOR = 1e-6
DELTA, QUANTILES = 1.0, (0.05, 0.5, 0.95)
Quantile = Annotated[float, Field(gt=0, lt=1)]


def _noise(value: Any) -> Any:
    if value is None or value == "validation" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e30):
        return value
    raise refuse("value-out-of-range", 'noise_std is null, "validation" or a number above 0 and at most 1e30')


class Regression(Head):
    """D numbers, standardized inside the model; labels float32 [.., N, D] in normalized units, NaN where missing."""

    says: ClassVar[Literal["classes", "numbers"]] = "numbers"
    shown: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "nll")
    halves: ClassVar[bool] = True

    task: Literal["regression"] = "regression"
    """One number or several."""
    loss: Literal["mse", "mae", "huber", "gaussian_nll", "quantile"] = "mse"
    """Squared, absolute or Huber error, the likelihood of a Gaussian whose variance is learned too, or the error of quantiles."""
    output: Literal["identity", "tanh"] = "identity"
    """The head's output function; tanh: answers lie in (-1, 1), and the target is not standardized."""
    noise_std: Annotated[Annotated[float, Field(gt=0, le=1e30)] | Literal["validation"] | None, BeforeValidator(_noise)] = None
    """Of mse: the noise of the observations in the target's unit; "validation": as large as makes validation rows most likely."""
    delta: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    """Of the Huber loss, in normalized units: errors beyond it count by their size, not their square; 1 unless given."""
    quantiles: Annotated[tuple[Quantile, ...], ITEMS, Field(min_length=1), AtMost(99)] | None = None
    """Of the quantile loss, ascending: the shares of rows that should lie below each answer; .05, .5 and .95 unless given."""

    @model_validator(mode="before")
    @classmethod
    def _own_of_loss(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        loss = value.get("loss", "mse")
        for name, of, default in (("delta", "huber", DELTA), ("quantiles", "quantile", QUANTILES)):
            if loss == of and value.get(name) is None:
                value = {**value, name: default}
            elif loss != of and value.get(name) is not None:
                raise refuse("inconsistent-spec", f"{name} is that of the {of} loss", pointer=f"/{name}")
        if loss != "mse" and value.get("noise_std") is not None:
            raise refuse("inconsistent-spec", "noise_std goes with the loss mse", pointer="/noise_std")
        return value

    @model_validator(mode="after")
    def _hangs_together(self) -> "Regression":
        if any(low >= high for low, high in pairwise(self.quantiles or ())):
            raise refuse("value-out-of-range", "quantiles ascend", pointer="/quantiles")
        if self.loss == "gaussian_nll" and self.output == "tanh":
            raise refuse("inconsistent-spec", "a Gaussian has no bounds; tanh goes with other losses", pointer="/output")
        if self.loss == "gaussian_nll" and self.weight == "learned":
            # L / (2 s^2) + log s has no minimum where L is negative, as a likelihood may be.
            raise refuse("inconsistent-spec", "a Gaussian likelihood learns its noise by itself; give it a number", pointer="/weight")
        return self

    @property
    def standardized(self) -> bool:
        return self.output == "identity"

    def width(self, columns: Columns, shape: tuple[int, ...]) -> int:
        return max(1, math.prod(columns.description.field(self.name).shape))

    def outputs(self, width: int) -> int:
        """Raw outputs of the head for D = `width` numbers: a mean each, and a variance with a Gaussian loss; or every quantile."""
        return width * (2 if self.loss == "gaussian_nll" else len(self.quantiles or (0,)))

    def misfits(self, description: Description, parts: Mapping[str, int]) -> Iterator[Flaw]:
        yield from absent(self.name, description)
        field = next((field for field in description.fields if field.name == self.name), None)
        if field is None:
            return
        if field.discrete:
            yield Flaw("/task", "inconsistent-spec", f"{self.name!r} is {field.kind}; regression needs numbers")
        elif not field.reachable:
            yield Flaw("/name", "invalid-data", f"{self.name!r} has numbers beyond {fields.REACH:g}; networks compute in float32")
        elif self.output == "tanh" and field.min is not None and field.max is not None and (field.min < -1 or field.max > 1):
            yield Flaw("/output", "inconsistent-spec", f"{self.name!r} runs from {field.min:g} to {field.max:g}, and tanh from -1 to 1")
        if self.noise_std == "validation" and not parts["validation"]:
            yield Flaw("/noise_std", "inconsistent-spec", "the noise is measured on validation rows never trained on, and there are none")

    def read_labels(self, columns: Columns) -> Tensor:
        return torch.from_numpy(numbers_of(columns, columns.description.field(self.name)))

    def doubtful(self, field: fields.Field, metric: str | None) -> bool:
        return super().doubtful(field, metric) or metric == "r2"

    def undefined(self, labels: Tensor, metric: str) -> str | None:
        why, known = super().undefined(labels, metric), labels[~self.missing(labels)]
        if why is None and metric == "r2" and bool((known == known[0]).all()):
            return f"all that have a label of {self.name!r} have the same one"
        return why

    def labelled(self, given: Given) -> Labelled:
        values = self.read_labels(given.columns).numpy()
        standardize = given.standardize and self.standardized
        mean, std = target_scale(values[given.train]) if standardize else plain_scale(values.shape[1])
        normalized = (values - mean.double().numpy()) / std.double().numpy()
        return Labelled(torch.from_numpy(normalized.astype(np.float32)), values.shape[1], mean, std, values)

    def losses(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Loss per row [.., N] in normalized units, the mean over the D outputs (and over quantiles)."""
        if self.loss == "mse":
            return (raw - labels).square().mean(-1)
        if self.loss == "mae":
            return (raw - labels).abs().mean(-1)
        if self.loss == "huber":
            return F.huber_loss(raw, labels, reduction="none", delta=self.delta or DELTA).mean(-1)
        if self.loss == "quantile":
            return self._pinball(by_quantile(raw, labels.shape[-1]), labels)
        return _surprise(*gaussian(raw), labels)

    def said_losses(self, said: Distribution, truth: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        known = ~truth.isnan().any(-1)
        labels, center = (truth[known] - mean) / std, said.mean
        if center is None:
            raise TypeError("a head of numbers says means")
        if self.loss == "gaussian_nll" and said.variance is not None:
            return _surprise((center[known] - mean) / std, said.variance[known] / std.square(), labels)
        if said.quantiles is not None:
            return self._pinball((said.quantiles[known] - mean.unsqueeze(-1)) / std.unsqueeze(-1), labels)
        return self.losses((center[known] - mean) / std, labels)

    def _pinball(self, said: Tensor, labels: Tensor) -> Tensor:
        """max(q e, (q - 1) e) of errors e = y - said, said [.., N, D, Q] (Koenker and Bassett 1978)."""
        shares = torch.tensor(self.quantiles, dtype=said.dtype, device=said.device)
        errors = labels.unsqueeze(-1) - said
        return torch.maximum(shares * errors, (shares - 1) * errors).mean((-2, -1))

    def loss_of(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses` over the rows; in one kernel where there is one member."""
        one = self.loss == "mse" and labels.ndim == 2
        return F.mse_loss(raw, labels) if one else self.losses(raw, labels).mean(-1)

    def missing(self, labels: Tensor) -> Tensor:
        """Rows without a label, as booleans [.., N]: a row counts where all its numbers are there."""
        return labels.isnan().any(-1)

    def read(self, raw: Tensor, mean: Tensor, std: Tensor) -> Distribution:
        """The raw outputs in the target's own unit; quantiles that cross are put in order (Chernozhukov et al. 2010)."""
        if self.loss == "quantile":
            said = by_quantile(raw, len(mean)).sort(-1).values * std.unsqueeze(-1) + mean.unsqueeze(-1)
            return Distribution(mean=self._central(said), quantiles=said)
        if self.loss != "gaussian_nll":
            return Distribution(mean=raw * std + mean)
        center, variance = gaussian(raw)
        return Distribution(mean=center * std + mean, variance=variance * std.square())

    def exported(self, graph: Graph, raw: str, mean: Tensor, std: Tensor) -> Nodes:
        if self.loss == "quantile":
            return self._exported_quantiles(graph, raw, mean, std)
        shift, scale, squares = (graph.constant(part.cpu().numpy()) for part in (mean, std, std.square()))
        if self.loss != "gaussian_nll":
            return Nodes(mean=graph.add("Add", graph.add("Mul", raw, scale), shift))
        center, spread = graph.several(2, "Split", raw, axis=-1, num_outputs=2)
        variance = graph.add("Add", graph.add("Softplus", spread), graph.real(VARIANCE_FLOOR))
        return Nodes(mean=graph.add("Add", graph.add("Mul", center, scale), shift), variance=graph.add("Mul", variance, squares))

    def _exported_quantiles(self, graph: Graph, raw: str, mean: Tensor, std: Tensor) -> Nodes:
        count = len(self.quantiles or (0,))
        shift, scale = (graph.constant(part.unsqueeze(-1).cpu().numpy()) for part in (mean, std))
        by_quantile = graph.reshaped(raw, len(mean), count)
        ascending, _ = graph.several(2, "TopK", by_quantile, graph.numbers(count), axis=-1, largest=0, sorted=1)
        said = graph.add("Add", graph.add("Mul", ascending, scale), shift)
        central = graph.add("Gather", said, graph.numbers(*self.middle), axis=-1)
        return Nodes(mean=graph.add("ReduceMean", central, graph.numbers(-1), keepdims=0), quantiles=said)

    @property
    def middle(self) -> tuple[int, int]:
        """The places of the two quantiles whose mean is the prediction: of those nearest to the median, the same twice where it is one."""
        gaps = [round(abs(share - 0.5), 12) for share in self.quantiles or (0.5,)]
        nearest = [place for place, gap in enumerate(gaps) if gap == min(gaps)]
        return nearest[0], nearest[-1]

    def _central(self, said: Tensor) -> Tensor:
        """The prediction [..] of quantiles [.., Q]."""
        low, high = self.middle
        return said[..., low] if low == high else 0.5 * (said[..., low] + said[..., high])

    def scores(self, raw: Tensor, labels: Tensor, std: Tensor) -> dict[str, Tensor]:
        said = self._central(by_quantile(raw, labels.shape[-1])) if self.loss == "quantile" else raw[..., : labels.shape[-1]]
        errors = (said - labels).double() * std  # the unit may be so large that squares leave float32
        return {"loss": self.losses(raw, labels), "squares": errors.square().mean(-1), "magnitudes": errors.abs().mean(-1)}

    @property
    def scored(self) -> tuple[str, ...]:
        return ("loss", "squares", "magnitudes")

    def means(self, sums: Mapping[str, float], rows: float) -> dict[str, float]:
        mse = sums["squares"] / rows
        return {"loss": sums["loss"] / rows, "rmse": math.sqrt(mse), "mse": mse, "mae": sums["magnitudes"] / rows}

    @property
    def quick(self) -> tuple[str, ...]:
        return ("loss", "rmse", "mae", "mse")

    @property
    def monitors(self) -> tuple[str, ...]:
        # Without a variance there is no density to measure.
        return (*self.quick, "r2", *(("nll",) if self.loss == "gaussian_nll" else ()))


def _surprise(mean: Tensor, variance: Tensor, labels: Tensor) -> Tensor:
    """Mean over outputs of the negative log of a Gaussian's density."""
    terms = 0.5 * (math.log(2 * math.pi) + variance.log() + (labels - mean).square() / variance)
    return terms.mean(-1)


def by_quantile(raw: Tensor, width: int) -> Tensor:
    """Raw outputs [.., D Q] as [.., D, Q]."""
    return raw.view(*raw.shape[:-1], width, -1)


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [.., D] of a Gaussian head's raw outputs [.., 2 D]; variance softplus + 1e-6 (Lakshminarayanan 2017)."""
    center, spread = raw.chunk(2, dim=-1)
    return center, F.softplus(spread) + VARIANCE_FLOOR


def target_scale(values: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of training targets [N, D]; constant ones are divided by 1."""
    known = values[~np.isnan(values).any(axis=1)]
    if not len(known):
        return plain_scale(values.shape[1])
    mean, std = known.mean(axis=0), known.std(axis=0)
    std = np.where(std <= np.finfo(np.float32).eps * np.abs(known).max(axis=0), 1.0, std)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
