"""Augmentation: training rows changed in ways that keep their label, in the inputs' own units."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.choices import tagged
from service.values import Value


class GaussianNoise(Value):
    """x + N(0, std^2), independently per entry; rows are chosen with `probability`."""

    type: Literal["gaussian_noise"] = "gaussian_noise"
    """Gaussian noise."""
    std: Annotated[float, Field(ge=0, le=1e30, examples=[1.0])]
    """Standard deviation, in the inputs' own unit."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of rows that is changed."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of rows x [N, ...]."""
        noise = torch.randn(x.shape, generator=generator, device=x.device).mul_(self.std)
        if self.probability < 1:
            chosen = torch.rand(len(x), generator=generator, device=x.device) < self.probability
            noise *= chosen.view(-1, *[1] * (x.ndim - 1))
        return noise.add_(x)


Augmentation = Annotated[GaussianNoise, tagged("type", "gaussian_noise")]
