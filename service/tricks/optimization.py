"""Optimizers, learning rate schedules and gradient clipping."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.values import ITEMS, Value

Rate = Annotated[float, Field(gt=0, le=1000)]
MOMENTS = "exp_avg_sq"
"""What torch calls the second moments of Adam in an optimizer's state."""
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

    def build(self, weights: Sequence[Tensor], others: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of a network's weights and of its other parameters (biases, gains)."""
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD([*weights, *others], lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov, fused=True)

    def step_sizes(self, optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> list[Tensor]:
        """The length of a proximal step at each weight: lr / (1 - momentum), the gradient's own effective length.

        With the plain lr a penalty would weigh only 1 - momentum of what it says (decision 0009).
        """
        length = float(optimizer.param_groups[0]["lr"]) / (1 - self.momentum)
        return [torch.tensor(length, device=weight.device) for weight in weights]


class _Adaptive(Value):
    """What Adam and AdamW share."""

    learning_rate: Rate = 1e-3
    """Length of a step."""
    betas: Annotated[tuple[Momentum, Momentum], ITEMS] = (0.9, 0.999)
    """Decay of the two moment estimates."""

    def step_sizes(self, optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> list[Tensor]:
        """The length of a proximal step at each weight, coordinate by coordinate."""
        return self.metric(optimizer, [optimizer.state[weight][MOMENTS] for weight in weights])

    def metric(self, optimizer: torch.optim.Optimizer, moments: Sequence[Tensor]) -> list[Tensor]:
        """lr / (sqrt(v_hat) + eps) for second moments v: a proximal step in Adam's own metric.

        With v_hat = v / b it is the reciprocal of sqrt(v) / (lr sqrt(b)) + eps / lr, which takes one pass less.
        """
        group = optimizer.param_groups[0]
        steps = float(optimizer.state[group["params"][0]]["step"])
        length, correction = group["lr"], math.sqrt(1.0 - group["betas"][1] ** steps)
        offset = torch.tensor(group["eps"] / max(length, 1e-30))
        scale = 1.0 / (max(length, 1e-30) * correction)
        sizes = [torch.add(offset, root, alpha=scale, out=root) for root in torch._foreach_sqrt(list(moments))]
        torch._foreach_reciprocal_(sizes)
        return sizes


class Adam(_Adaptive):
    """Adam (Kingma and Ba 2015)."""

    type: Literal["adam"] = "adam"
    """Adam."""

    def build(self, weights: Sequence[Tensor], others: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of a network's weights and of its other parameters (biases, gains)."""
        return torch.optim.Adam([*weights, *others], lr=self.learning_rate, betas=self.betas, fused=True)


class AdamW(_Adaptive):
    """Adam with decoupled weight decay, w <- (1 - lr weight_decay) w, of weights alone (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    """Adam with decoupled weight decay."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decay of weights per step, times the learning rate."""

    def build(self, weights: Sequence[Tensor], others: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of a network's weights and of its other parameters (biases, gains), which do not decay."""
        groups = [{"params": list(weights), "weight_decay": self.weight_decay}, {"params": list(others), "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=self.learning_rate, betas=self.betas, fused=True)


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

    def __call__(self, parameters: Sequence[Tensor]) -> None:
        """Clip the gradients in place."""
        torch.nn.utils.clip_grad_norm_(parameters, self.norm, foreach=True)


Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="type")]
Schedule = Annotated[Constant | StepDecay | Cosine, Field(discriminator="type")]
