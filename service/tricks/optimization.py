"""Optimizers, learning rate schedules and gradient clipping."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks import stepping
from service.tricks.proximal import Metric, Scales
from service.values import ITEMS, Value

Rate = Annotated[float, Field(gt=0, le=1000)]
MOMENTS = "exp_avg_sq"
"""What torch calls the second moments of Adam in an optimizer's state."""
Rates = Sequence[float] | None
"""Learning rates of the members of a stack, where they differ."""
Momentum = Annotated[float, Field(ge=0, lt=1)]


class SGD(Value):
    """Stochastic gradient descent, with (Nesterov) momentum."""

    type: Literal["sgd"] = "sgd"
    """Stochastic gradient descent."""
    learning_rate: Rate = 0.1
    """Length of a step."""
    momentum: Momentum = 0.9
    """Share of the last step that goes into the next."""
    nesterov: bool = False
    """Whether the gradient is taken ahead of the momentum."""

    def build(
        self, weights: Sequence[Tensor], others: Sequence[Tensor], *, rates: Rates = None, stacked: bool = False
    ) -> torch.optim.Optimizer:
        """The optimizer of a network's weights and of its other parameters (biases, gains)."""
        nesterov = self.nesterov and self.momentum > 0
        kind = _kind((stepping.SGD, stepping.StackedSGD, stepping.StaggeredSGD), rates, stacked)
        built = kind([*weights, *others], lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov, fused=True)
        return _at(built, rates)

    def metric(self, optimizer: torch.optim.Optimizer, scales: Scales, *, place: int = 0) -> Metric:
        """Steps of lr / (1 - momentum), the gradient's own effective length, for the member at that place.

        With the plain lr a penalty would weigh only 1 - momentum of what it says (decision 0009).
        """
        return Metric(rate_of(optimizer, place) / (1 - self.momentum), [torch.ones((), device=weight.device) for weight in scales.weights])


class _Adaptive(Value):
    """What Adam and AdamW share."""

    learning_rate: Rate = 1e-3
    """Length of a step."""
    betas: Annotated[tuple[Momentum, Momentum], ITEMS] = (0.9, 0.999)
    """Decay of the two moment estimates."""

    def metric(self, optimizer: torch.optim.Optimizer, scales: Scales, *, place: int = 0) -> Metric:
        """Steps of lr / (sqrt(v_hat) + eps) for second moments v: a proximal step in Adam's own metric.

        With v_hat = v / b the step is lr sqrt(b) / (sqrt(v) + eps sqrt(b)), whose one factor is the same everywhere.
        """
        group = optimizer.param_groups[0]
        correction = math.sqrt(1.0 - group["betas"][1] ** float(optimizer.state[group["params"][0]]["step"]))
        return scales.at(rate_of(optimizer, place) * correction, group["eps"] * correction)


class Adam(_Adaptive):
    """Adam (Kingma and Ba 2015)."""

    type: Literal["adam"] = "adam"
    """Adam."""

    def build(
        self, weights: Sequence[Tensor], others: Sequence[Tensor], *, rates: Rates = None, stacked: bool = False
    ) -> torch.optim.Optimizer:
        """The optimizer of a network's weights and of its other parameters (biases, gains)."""
        kind = _kind((stepping.Adam, stepping.StackedAdam, stepping.StaggeredAdam), rates, stacked)
        return _at(kind([*weights, *others], lr=self.learning_rate, betas=self.betas, fused=True), rates)


class AdamW(_Adaptive):
    """Adam with decoupled weight decay, w <- (1 - lr weight_decay) w, of weights alone (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    """Adam with decoupled weight decay."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decay of weights per step, times the learning rate."""

    def build(
        self, weights: Sequence[Tensor], others: Sequence[Tensor], *, rates: Rates = None, stacked: bool = False
    ) -> torch.optim.Optimizer:
        """The optimizer of a network's weights and of its other parameters (biases, gains), which do not decay."""
        groups = [{"params": list(weights), "weight_decay": self.weight_decay}, {"params": list(others), "weight_decay": 0.0}]
        kind = _kind((stepping.AdamW, stepping.StackedAdamW, stepping.StaggeredAdamW), rates, stacked)
        return _at(kind([group for group in groups if group["params"]], lr=self.learning_rate, betas=self.betas, fused=True), rates)


def rate_of(optimizer: torch.optim.Optimizer, place: int) -> float:
    """The present learning rate of the member at that place of a stack, or of all."""
    group = optimizer.param_groups[0]
    return float(group["rates"][place] if "rates" in group else group["lr"])


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Set the learning rates of a stack's members, or the first as that of all."""
    for group in optimizer.param_groups:
        group["lr"] = rates[0]
        if "rates" in group:
            group["rates"] = list(rates)


def _kind(kinds: Sequence[type[Any]], rates: Rates, stacked: bool) -> type[Any]:
    """Of the kinds for a network, for a stack, and for a stack whose members have learning rates of their own, the one that is meant."""
    return kinds[2] if rates is not None else kinds[1] if stacked else kinds[0]


def _at(optimizer: torch.optim.Optimizer, rates: Rates) -> torch.optim.Optimizer:
    for group in optimizer.param_groups if rates is not None else ():
        group["rates"] = list(rates or ())
    return optimizer


class Constant(Value):
    """The learning rate as it is."""

    type: Literal["constant"] = "constant"
    """A constant learning rate."""

    def multiplier(self, step: int, *, steps_per_epoch: int, steps: int) -> float:
        """What multiplies the learning rate at a step counted from 0."""
        return 1.0


class StepDecay(Value):
    """Times `factor` after each `every` epochs."""

    type: Literal["step"] = "step"
    """A learning rate that falls in steps."""
    every: Annotated[int, Field(ge=1, examples=[30])]
    """Epochs between two steps."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What each step multiplies the learning rate with."""

    def multiplier(self, step: int, *, steps_per_epoch: int, steps: int) -> float:
        """What multiplies the learning rate at a step counted from 0."""
        return self.factor ** (step // steps_per_epoch // self.every)


class Cosine(Value):
    """Half a cosine from 1 to `final` over all epochs, per step, after a linear warm-up (Loshchilov and Hutter 2017)."""

    type: Literal["cosine"] = "cosine"
    """A learning rate that falls along half a cosine."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of the learning rate that is left at the end."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0
    """Epochs of linear rise before."""

    def multiplier(self, step: int, *, steps_per_epoch: int, steps: int) -> float:
        """What multiplies the learning rate at a step counted from 0."""
        warmup = min(round(self.warmup_epochs * steps_per_epoch), steps)
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup) / max(steps - warmup, 1)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class GradientClip(Value):
    """Scale the whole gradient down to this L2 norm."""

    norm: Annotated[float, Field(gt=0)]
    """Longest gradient, in L2 norm over all parameters."""

    def __call__(self, parameters: Sequence[Tensor], *, members: int | None = None) -> None:
        """Clip the gradients in place; those of a stack [K, ...] member by member."""
        if members is None:
            torch.nn.utils.clip_grad_norm_(parameters, self.norm, foreach=True)
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # Member by member: what sums along an axis round to would depend on how many members there are.
        norms = torch.stack(torch._foreach_norm([own for gradient in gradients for own in gradient]))
        squares = sum(norms.square().view(len(gradients), members))
        factor = (self.norm / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="type")]
Schedule = Annotated[Constant | StepDecay | Cosine, Field(discriminator="type")]
