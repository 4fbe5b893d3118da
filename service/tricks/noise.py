"""Noise of an attack's size: the controls that an attack has to beat."""

from typing import Literal

from torch import Tensor

from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation


class GaussianNoise(Perturbation):
    """A control: linf: entries N(0, epsilon^2); l2, l1: a random direction of length epsilon."""

    type: Literal["gaussian_noise"] = "gaussian_noise"
    """Gaussian noise."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """One draw per row."""
        noise = box.free(self.draws(x, numbers).normal(x.shape))
        return self.perturb(x, noise * self.epsilon if self.norm == "linf" else self.stretched(noise), box)


class UniformNoise(Perturbation):
    """A control: uniform in the ball."""

    type: Literal["uniform_noise"] = "uniform_noise"
    """Noise uniform in the ball."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """One draw per row."""
        return self.perturb(x, self.ball.sample(x, self.epsilon, self.draws(x, numbers), box.movable), box)


class RandomSign(Perturbation):
    """The control of FGSM's own length: +-epsilon in every entry (l2, l1: scaled to length epsilon)."""

    type: Literal["random_sign"] = "random_sign"
    """Every entry up or down by epsilon, at random."""

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """One draw per row."""
        signs = self.draws(x, numbers).signs(x.shape)
        return self.perturb(x, self.stretched(box.free(signs)), box)
