"""Penalties on weights: the objective is the mean data loss plus the sum of these.

Each acts at one or two moments of a step: it adds to the gradient before the optimizer's step, or shrinks and projects
the weights after it. None of them is a term of the autograd graph, and none loops over parameters in Python.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.penalty import Alpha, OnLayers, Tensors
from service.tricks.proximal import Metric
from service.tricks.sparsity import L0
from service.tricks.tying import Share, Tie


class L2(OnLayers):
    """alpha * sum w^2, whose gradient is 2 alpha w; decoupled: w <- (1 - lr alpha) w instead (AdamW's decay)."""

    type: Literal["l2"] = "l2"
    """Weight decay."""
    alpha: Alpha
    """Strength."""
    decoupled: bool = False
    """Whether weights shrink by themselves instead of through the gradient."""

    @property
    def steers(self) -> bool:
        return not self.decoupled

    def value(self, weights: Tensors) -> Tensor:
        """alpha * sum w^2; decoupled decay is not the gradient of anything and counts 0."""
        return weights[0].new_zeros(()) if self.decoupled else self.alpha * _squares(weights)

    def add_gradient(self, weights: Tensors) -> None:
        if not self.decoupled and self.alpha:
            torch._foreach_add_(_gradients(weights), list(weights), alpha=2 * self.alpha)

    def shrink(self, weights: Tensors, *, learning_rate: float, metric: Metric | None = None) -> None:
        if self.decoupled and self.alpha:
            torch._foreach_mul_(list(weights), 1 - learning_rate * self.alpha)


class L1(OnLayers):
    """alpha * sum |w| by a proximal step, w <- sign(w) max(|w| - t, 0), so that zeros are exact (ISTA; t = step * alpha)."""

    type: Literal["l1"] = "l1"
    """The lasso."""
    alpha: Alpha
    """Strength."""

    proximal: ClassVar[bool] = True

    @property
    def sparsifies(self) -> bool:
        return self.alpha > 0

    def value(self, weights: Tensors) -> Tensor:
        return self.alpha * _magnitudes(weights)

    def shrink(self, weights: Tensors, *, learning_rate: float, metric: Metric | None = None) -> None:
        _proximal_step(weights, metric, self.alpha)


class ElasticNet(OnLayers):
    """l1 * sum |w| + l2 * sum w^2: soft threshold, then division by 1 + 2 step l2 (Zou and Hastie 2005)."""

    type: Literal["elastic_net"] = "elastic_net"
    """Lasso and ridge at once."""
    l1: Alpha
    """Strength of the absolute values."""
    l2: Alpha
    """Strength of the squares."""

    proximal: ClassVar[bool] = True

    @property
    def sparsifies(self) -> bool:
        return self.l1 > 0

    def value(self, weights: Tensors) -> Tensor:
        return self.l1 * _magnitudes(weights) + self.l2 * _squares(weights)

    def shrink(self, weights: Tensors, *, learning_rate: float, metric: Metric | None = None) -> None:
        _proximal_step(weights, metric, self.l1, self.l2)


class MaxNorm(OnLayers):
    """No unit's incoming weights are longer than `limit`: w <- w min(1, limit / |w|) after every step (Srivastava 2014)."""

    type: Literal["max_norm"] = "max_norm"
    """A bound on the incoming weights of each unit."""
    limit: Annotated[float, Field(gt=0, le=1e6, examples=[3.0])]
    """The longest that they may be, in L2 norm."""

    projects: ClassVar[bool] = True
    spares_heads: ClassVar[bool] = True

    def by_member(self, weights: Tensor) -> list[Tensor]:
        """A unit of any member is a row of its own."""
        return [weights.flatten(0, 1)]

    def value(self, weights: Tensors) -> Tensor:
        """A constraint adds nothing to the objective."""
        return weights[0].new_zeros(())

    def shrink(self, weights: Tensors, *, learning_rate: float, metric: Metric | None = None) -> None:
        for weight in weights:
            if weight.ndim >= 2:
                # One kernel; it leaves short rows alone and makes long ones no longer than the limit.
                weight.renorm_(2, 0, self.limit)


def _gradients(weights: Tensors) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def _squares(weights: Tensors) -> Tensor:
    return _norms(weights, 2).square().sum()


def _magnitudes(weights: Tensors) -> Tensor:
    return _norms(weights, 1).sum()


def _norms(weights: Tensors, order: int) -> Tensor:
    """The norm of each tensor."""
    return torch.linalg.vector_norm(weights[0], order) if len(weights) == 1 else torch.stack(torch._foreach_norm(list(weights), order))


def _proximal_step(weights: Tensors, metric: Metric | None, l1: float, l2: float = 0.0) -> None:
    if metric is None:
        raise ValueError("a proximal step needs the metric of the optimizer's step")
    if metric.length and (l1 or l2):
        metric.soften(weights, l1, l2)


Regularizer = Annotated[L1 | L2 | ElasticNet | MaxNorm | L0 | Tie | Share, Field(discriminator="type")]
