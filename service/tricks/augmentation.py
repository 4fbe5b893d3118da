"""Augmentation: training rows changed in ways that keep their label, or mixed with it, in the inputs' own units."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.geometry import Cutout, Flip, Rotate, Scale, Translate
from service.tricks.mixing import CutMix, Mixup
from service.tricks.streams import Draws
from service.tricks.transforms import Transform, beside


class GaussianNoise(Transform):
    """x + N(0, std^2), independently per entry; of a table the categories and indicators stay as they are."""

    numbers_only: ClassVar[bool] = True
    type: Literal["gaussian_noise"] = "gaussian_noise"
    """Gaussian noise."""
    std: Annotated[float, Field(ge=0, le=1e30, examples=[1.0])]
    """Standard deviation, in the inputs' own unit."""

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        noise = draws.normal(x[:1].numel(), x.device, std=self.std).view(x.shape)
        chosen = draws.chosen(self.probability)
        if chosen is not None:
            noise *= beside(torch.from_numpy(chosen).to(x.device), x)
        return noise.add_(x)


Augmentation = Annotated[
    GaussianNoise | Translate | Rotate | Scale | Flip | Cutout | Mixup | CutMix,
    Field(discriminator="type"),
]
