"""Adversarial training that asks what a network says to change little around a row: no label says what is right there."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from service.tricks.ascent import Ball, Loss, Streams, normal
from service.tricks.attacks import Epsilon
from service.tricks.norms import NORMS, NormName
from service.values import Value

Factor = Annotated[float, Field(ge=0, le=1e6)]


class _Smoothing(Value):
    """J(x) + factor KL(p(x) || p(x_adv)), x_adv being where the divergence is large."""

    norm: NormName = "linf"
    """In which the perturbation is measured."""
    epsilon: Epsilon
    """Its size, in the inputs' own unit."""

    @property
    def factor(self) -> float:
        """Of the divergence in the objective."""
        raise NotImplementedError

    @property
    def anchored(self) -> bool:
        """Whether p(x) counts as a constant, so that what is said of the clean row does not give way."""
        return False

    @property
    def gradients(self) -> int:
        """Gradients with respect to the inputs that moving a batch takes."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """Passes of a step, where a plain one takes three: forward, backward to the weights, backward to the inputs."""
        return 6 + 2 * self.gradients if self.factor else 3

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows x [N, ...] moved so as to raise `loss_of`; entries not `movable` stay. Without streams nothing is random."""
        raise NotImplementedError


class TRADES(_Smoothing):
    """CE(x) + beta KL(p(x) || p(x_adv)), the divergence raised by projected steps (Zhang et al. 2019)."""

    method: Literal["trades"] = "trades"
    """TRADES."""
    beta: Factor = 6.0
    """What robustness is worth against accuracy."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Steps of 2.5 epsilon / steps."""

    @property
    def factor(self) -> float:
        return self.beta

    @property
    def gradients(self) -> int:
        return self.steps

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows after the last step from x + .001 N(0, 1): at x itself the divergence has no slope.

        The start of an epsilon above .3 grows with it, as epsilon / 300: .001 of a row in thousands would be rounded away.
        """
        ball, start = Ball(self.norm, self.epsilon, movable), None
        if streams:
            start = max(0.001, self.epsilon / 300) * normal(x, streams)
            start = start if movable is None else start * movable
        return ball.climb(x, loss_of, start, size=2.5 * self.epsilon / self.steps, steps=self.steps)


class VAT(_Smoothing):
    """J(x) + weight KL(p(x) || p(x + r)), r where the divergence rises fastest; p(x) is a constant (Miyato et al. 2018).

    Rows without a label count in the divergence.
    """

    method: Literal["vat"] = "vat"
    """Virtual adversarial training."""
    weight: Factor = 1.0
    """The factor of the divergence."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 1
    """Power iterations towards the first eigenvector of the divergence's Hessian."""

    @property
    def factor(self) -> float:
        return self.weight

    @property
    def anchored(self) -> bool:
        return True

    @property
    def gradients(self) -> int:
        return self.steps

    def perturb(self, x: Tensor, loss_of: Loss, movable: Tensor | None = None, streams: Streams = ()) -> Tensor:
        """Rows moved by epsilon along r.

        Iterates are of Euclidean length epsilon / 100, near enough to x for the gradient there to be the Hessian times it.
        """
        ball = Ball(self.norm, self.epsilon, movable)
        slope = normal(x, streams) if streams else x.new_zeros(x.shape)
        slope = slope if movable is None else slope * movable
        for _ in range(self.steps):
            slope = ball.slope(x + 0.01 * self.epsilon * NORMS["l2"].direction(slope), loss_of)
        return x.detach() + self.epsilon * ball.shape.direction(slope)
