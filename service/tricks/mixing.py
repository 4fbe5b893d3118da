"""Rows mixed with others of their batch, their labels with them.

A row's partner is the next in the ring in which the batch's rows stand, ordered by a number of each row's stream: everyone is
the partner of one other, and only a row that is alone in its batch mixes with itself. The share is of the row's own stream.
"""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import betaincinv

from service.errors import Flaw
from service.tricks.geometry import area, boxes, within
from service.tricks.streams import Draws
from service.tricks.transforms import Blend, ImageTransform, Mixing

Concentration = Annotated[float, Field(ge=0.001, le=1000)]


def shares(alpha: float, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of Beta(alpha, alpha), [N]: where the mass lies at the ends they are 0 and 1."""
    found: NDArray[np.float64] = betaincinv(alpha, alpha, uniform)
    return found


class Mixup(Mixing):
    """lambda x + (1 - lambda) x', and labels alike, with lambda from Beta(`alpha`, `alpha`) (Zhang et al. 2018, "mixup")."""

    type: Literal["mixup"] = "mixup"
    """Mixed rows."""
    alpha: Concentration = 0.2
    """Of the Beta distribution: small ones mix few rows by much, 1 gives every share alike."""

    def blend(self, shape: tuple[int, ...], draws: Draws) -> Blend:
        share, chosen = shares(self.alpha, draws.uniform(1)[:, 0]), draws.chosen(self.probability)
        kept = share if chosen is None else np.where(chosen, share, 1.0)
        return Blend(torch.from_numpy(draws.partners()), torch.from_numpy(kept.astype(np.float32)))


class CutMix(Mixing, ImageTransform):
    """A box of another image is laid over the row's (Yun et al. 2019, "CutMix").

    Its area is 1 - lambda, lambda from Beta(`alpha`, `alpha`), before it is cut off at the border; the labels' share is what is left,
    counted in pixels.
    """

    pastes: ClassVar[bool] = True
    type: Literal["cutmix"] = "cutmix"
    """A pasted box."""
    alpha: Concentration = 1.0
    """Of the Beta distribution of the area that is kept; 1 gives every area alike."""

    def covers(self, height: int, width: int) -> Iterator[Flaw]:
        if height * width < 2:
            yield Flaw("/type", "inconsistent-spec", "images of one pixel have no part to paste")

    def blend(self, shape: tuple[int, ...], draws: Draws) -> Blend:
        drawn, extents, chosen = draws.uniform(3), np.array(shape[:2]), draws.chosen(self.probability)
        sides = np.floor(np.sqrt(1 - shares(self.alpha, drawn[:, 0]))[:, None] * extents).astype(np.int64)
        sides = sides if chosen is None else sides * chosen[:, None]
        box = boxes(drawn[:, 1:], sides, *shape[:2])
        share = (1 - area(box) / math.prod(shape[:2])).astype(np.float32)
        return Blend(torch.from_numpy(draws.partners()), torch.from_numpy(share), within(box, *shape[:2]))
