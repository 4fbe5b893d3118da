"""L0: a price on how many inputs a layer reads, by gates, or a bound on how many weights it has, by projection.

Gates: hard concrete variables (Louizos, Welling and Kingma 2018, "Learning sparse neural networks through L0
regularization"). The projection itself is in `service.tricks.projection`.
"""

from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from service.tricks.choices import refuse
from service.tricks.gate_kernels import BETA, EPS, GAMMA, OPENING, STEEPNESS, ZETA
from service.tricks.penalty import Alpha, OnLayers, Tensors
from service.tricks.projection import Border
from service.tricks.proximal import Metric
from service.values import DropRate


class HardConcrete:
    """Hard concrete gates, drawn again and again from what stands in `u`: uniform numbers in [0, 1).

    `prices`: what each gate costs while it may be open.
    """

    z: Tensor
    """The last draw."""

    def __init__(self, u: Tensor, prices: Tensor) -> None:
        self._u, self._prices = u, prices

    def draw(self, log_alpha: Tensor) -> Tensor:
        """z = clip(s (zeta - gamma) + gamma, 0, 1) with s = sigmoid((logit(u) + log_alpha) / beta)."""
        self._s, self._chances = ((torch.logit(self._u, EPS) + log_alpha) / BETA).sigmoid_(), chances(log_alpha)
        self.z = (self._s * (ZETA - GAMMA) + GAMMA).clamp_(0, 1)
        return self.z

    def slope(self, upstream: Tensor) -> Tensor:
        """The gradient at the logits that were drawn with: that of z, 0 where the clip holds a gate, and of prices times P(z != 0)."""
        inside = upstream * self._s * (1 - self._s) * STEEPNESS
        priced = self._prices * self._chances * (1 - self._chances)
        return torch.where((self.z > 0) & (self.z < 1), inside, 0.0) + priced


def deterministic(log_alpha: Tensor) -> Tensor:
    """The gates after training: clip(sigmoid(log_alpha) (zeta - gamma) + gamma, 0, 1), without the temperature."""
    return (log_alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def chances(log_alpha: Tensor) -> Tensor:
    """P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))."""
    return (log_alpha + OPENING).sigmoid()


class L0(OnLayers):
    """Inputs of a layer behind gates that cost alpha each while they may be open, or the `keep` largest weights alone."""

    model_config = ConfigDict(json_schema_extra={"example": {"type": "l0", "alpha": 1e-3}})

    type: Literal["l0"] = "l0"
    """The number of what is not 0."""
    method: Literal["gates", "projection"] = "gates"
    """`gates`: hard concrete gates on the layer's inputs; `projection`: all but the largest weights are set to 0 after every step."""
    alpha: Alpha | None = None
    """Gates: the price of an open gate; required there."""
    initial_drop: Annotated[DropRate, Field(gt=0)] = 0.5
    """Gates: the chance with which each is about closed in the beginning."""
    keep: Annotated[float, Field(gt=0, le=1)] | Annotated[int, Field(ge=1, le=2**40)] | None = None
    """Projection: how many weights of each layer stay, a share (1.0 is all) or a count (1 is one); required there."""

    @model_validator(mode="after")
    def _says_how_much(self) -> "L0":
        wanted, other = ("alpha", "keep") if self.method == "gates" else ("keep", "alpha")
        if getattr(self, wanted) is None:
            raise refuse(
                "missing-field", f"{self.method} need {wanted}" if self.gated else f"a projection needs {wanted}", pointer=f"/{wanted}"
            )
        if getattr(self, other) is not None:
            raise refuse("inconsistent-spec", f"{other} is not for {self.method}", pointer=f"/{other}")
        if self.parameters == "all":
            raise refuse("inconsistent-spec", "it acts on weights alone", pointer="/parameters")
        return self

    @property
    def steers(self) -> bool:
        return self.gated

    @property
    def projecting(self) -> bool:
        """Whether it is the projection."""
        return self.method == "projection"

    @property
    def gated(self) -> bool:
        return self.method == "gates"

    @property
    def sparsifies(self) -> bool:
        return True

    def kept(self, weights: int) -> int:
        """How many of a layer's weights stay: at least one."""
        if self.keep is None:
            return weights
        return min(self.keep, weights) if isinstance(self.keep, int) else max(1, round(self.keep * weights))

    def by_member(self, weights: Tensor) -> list[Tensor]:
        """Each member's own."""
        return list(weights.unbind())

    def value(self, weights: Tensors) -> Tensor:
        """Gates [inputs]: alpha times the expected number of open ones; a projection is a constraint and adds nothing."""
        if self.alpha is None:
            return weights[0].new_zeros(())
        return torch.stack([self.alpha * chances(log_alpha).sum() for log_alpha in weights]).sum()

    def shrink(self, weights: Tensors, *, learning_rate: float, metric: Metric | None = None) -> None:
        """Keep the largest of each tensor."""
        for weight in weights if self.projecting else ():
            Border(weight.detach(), self.kept(weight.numel())).project()
