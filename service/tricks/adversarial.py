"""Adversarial training: part of the loss is taken at inputs moved against the network, or at random.

No gradient flows through moved rows. They are not clipped to the data's bounds, as in Goodfellow et al. 2015, so that
training and attack agree on the ball; entries that may not move stay.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.ascent import Ball, Loss, Streams, normal
from service.tricks.attacks import Epsilon
from service.tricks.certification import IBPTraining
from service.tricks.norms import NORMS, NormName
from service.tricks.smoothing import TRADES, VAT
from service.values import Value

StepSize = Annotated[float, Field(gt=0, le=1e30)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Mix(Value):
    """(1 - weight) J(x) + weight J(x_adv)."""

    weight: Share = 1.0
    """The share of the adversarial loss; at 1 clean rows are not looked at."""

    @property
    def gradients(self) -> int:
        """Gradients with respect to the inputs that moving a batch takes."""
        return 1

    @property
    def passes(self) -> int:
        """Passes of a step, where a plain one takes three: forward, backward to the weights, backward to the inputs."""
        return 3 * (1 + (0 < self.weight < 1)) + (2 * self.gradients if self.weight else 0)

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows x [N, ...] moved so as to raise `loss_of`; entries not `movable` stay. Without streams nothing is random."""
        raise NotImplementedError


class _Within(_Mix):
    """A mix whose perturbation has a size."""

    norm: NormName = "linf"
    """In which the perturbation is measured."""
    epsilon: Epsilon
    """Its size, in the inputs' own unit."""

    def ball(self, movable: Tensor | None) -> Ball:
        """Where rows may be moved to."""
        return Ball(self.norm, self.epsilon, movable)


class FGSMTraining(_Within):
    """One FGSM step from the clean row, mixed with it (Goodfellow et al. 2015, section 6)."""

    method: Literal["fgsm"] = "fgsm"
    """FGSM."""
    weight: Share = 0.5
    """The share of the adversarial loss."""

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows moved by epsilon along the direction that raises the loss most."""
        return self.along(x, self.ball(movable).slope(x, loss_of))

    def along(self, x: Tensor, slope: Tensor) -> Tensor:
        """Rows moved by epsilon along a gradient."""
        return (x + self.epsilon * NORMS[self.norm].direction(slope)).detach()


class PGDTraining(_Within):
    """Projected gradient descent from a random start (Madry et al. 2018)."""

    method: Literal["pgd"] = "pgd"
    """PGD."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 7
    """Steps; each costs about two thirds of a plain optimizer step."""
    step_size: StepSize | None = None
    """Length of a step; null: 2.5 epsilon / steps."""

    @property
    def gradients(self) -> int:
        return self.steps

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows after the last step, from a start uniform in the ball or, without streams, from the clean ones."""
        ball = self.ball(movable)
        size = self.step_size if self.step_size is not None else 2.5 * self.epsilon / self.steps
        return ball.climb(x, loss_of, ball.start(x, streams), size=size, steps=self.steps)


class FastTraining(_Within):
    """One FGSM step from a random start (Wong et al. 2020), watched by PGD and rolled back where it overfits to its one step."""

    method: Literal["fast"] = "fast"
    """FGSM from random starts."""
    step_size: StepSize | None = None
    """Length of the step; null: 1.25 epsilon. Every roll-back halves it."""

    def perturb(
        self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = (), *, shares: Tensor | None = None
    ) -> Tensor:
        """Rows after a step from a start uniform in the ball; `shares` [N] of its length are left after roll-backs."""
        ball = self.ball(movable)
        length = self.step_size if self.step_size is not None else 1.25 * self.epsilon
        size = length if shares is None else length * shares.view(-1, *[1] * (x.ndim - 1))
        return ball.climb(x, loss_of, ball.start(x, streams), size=size, steps=1)


class NoiseTraining(_Mix):
    """The control of the others: the loss at rows plus Gaussian noise, whatever the network says."""

    method: Literal["noise"] = "noise"
    """Gaussian noise."""
    std: Annotated[float, Field(ge=0, le=1e30, examples=[1.0])]
    """Its standard deviation in every entry, in the inputs' own unit."""

    @property
    def gradients(self) -> int:
        return 0

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows plus noise from the streams or, without any, from one that is always the same."""
        noise = self.std * normal(x, streams or [torch.Generator(x.device).manual_seed(0)])
        return x.detach() + (noise if movable is None else noise * movable)


Moving = FGSMTraining | PGDTraining | FastTraining | TRADES | VAT | NoiseTraining
"""Methods that move rows."""
AdversarialTraining = Annotated[Moving | IBPTraining, Field(discriminator="method")]
