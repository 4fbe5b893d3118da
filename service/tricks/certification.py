"""Certificates: training on what intervals bound, and the smoothed classifier whose class no small enough perturbation changes."""

import math
from statistics import NormalDist
from typing import Annotated, Literal

import torch
from pydantic import Field
from scipy.special import betaincinv
from torch import nn

from service.tricks.attacks import Epsilon
from service.tricks.multitask import Target
from service.values import Value

SELECTION = 100
"""Noisy copies that the class is chosen by, before others estimate its probability (n0 of Cohen et al. 2019)."""


class IBPTraining(Value):
    """(1 - w) J(x) + w J(the worst outputs that intervals allow within epsilon), w and epsilon ramped up (Gowal et al. 2018).

    After a `warmup` without bounds, w goes from 0 to `weight` and the box from a point to `epsilon` over the share `ramp` of the
    steps, both in a straight line.
    """

    method: Literal["ibp"] = "ibp"
    """Interval bound propagation."""
    norm: Literal["linf"] = "linf"
    """Intervals are boxes."""
    epsilon: Epsilon
    """Half of the box's width, in the inputs' own unit."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of the worst case's loss after the ramp (1 - kappa)."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps before the ramp."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.45
    """Share of the steps that it takes."""
    initialization: Literal["ibp", "architecture"] = "ibp"
    """How weights begin: normal with a deviation of sqrt(2 pi) / inputs (Shi et al. 2021), or as the architecture says."""

    @property
    def passes(self) -> int:
        """Passes of a step, where a plain one takes three; boxes go through as center and radius, which costs about nine, measured."""
        return 12 if self.weight else 3

    def ramped(self, progress: float) -> float:
        """How much of `weight` and of `epsilon` is in force when that share of the steps is done, 0 to 1."""
        if progress >= self.warmup + self.ramp:
            return 1.0
        return max(0.0, progress - self.warmup) / self.ramp if self.ramp else 0.0

    def begin(self, network: nn.Module, generator: torch.Generator) -> None:
        """Draw the weights of linear layers and convolutions anew, with biases of 0 (Shi et al. 2021, section 3.1)."""
        if self.initialization != "ibp":
            return
        with torch.no_grad():
            for layer in (layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)):
                layer.weight.normal_(0.0, math.sqrt(2 * math.pi) / max(1, layer.weight[0].numel()), generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()


def certifiable(target: Target) -> bool:
    """Whether the worst case of its loss in a box of outputs is known: one class of a row, or numbers whose loss grows with the error."""
    return target.calibrates or (target.says == "numbers" and not target.from_inputs and target.loss in ("mse", "mae", "huber"))


class Smoothing(Value):
    """The class that Gaussian noise of `sigma` leaves most probable, with a radius within which it stays so.

    Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing", section 3.2.
    """

    sigma: Annotated[float, Field(gt=0, le=1e30, examples=[1.0])]
    """Standard deviation of the noise in every entry that may move, in the inputs' own unit."""
    n: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Noisy copies of a row that estimate the probability of its class, after 100 others that chose the class."""
    alpha: Annotated[float, Field(ge=1e-12, le=0.5)] = 0.001
    """The probability, at most, that a class or radius of a row is wrong."""

    @property
    def copies(self) -> int:
        """Noisy copies of a row."""
        return SELECTION + self.n

    def certificate(self, chosen: int) -> tuple[float, float | None]:
        """Of the class that `chosen` of the n copies have: a lower bound of its probability, and the radius; None: it abstains."""
        least = lower_bound(chosen, self.n, self.alpha)
        return least, self.sigma * NormalDist().inv_cdf(least) if least > 0.5 else None


def lower_bound(hits: int, draws: int, alpha: float) -> float:
    """The Clopper-Pearson bound below which a probability lies with probability alpha at most, given `hits` of so many draws."""
    return float(betaincinv(hits, draws - hits + 1, alpha)) if hits else 0.0
