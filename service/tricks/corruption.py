"""Everyday corruption at five severities: what happens to inputs without an enemy (after Hendrycks and Dietterich 2019)."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from service.tricks.draws import Draws
from service.tricks.perturbation import Attacked, Box, Disturbance, LossOf

SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(Disturbance):
    """What corruptions share: a severity in place of epsilon, and no look at the predictor."""

    severity: Annotated[int, Field(ge=1, le=5, examples=[3])]
    """From 1, slight, to 5."""
    strengths: ClassVar[tuple[float, float, float, float, float]]
    pictures_only: ClassVar[bool] = True

    @property
    def strength(self) -> float:
        """The number of that severity."""
        return self.strengths[self.severity - 1]

    def sized(self, size: float) -> Self:
        return self.model_copy(update={"severity": int(size)})

    def sizes(self, epsilons: Sequence[float]) -> Sequence[float]:
        """All severities, whatever the epsilons of a job's attacks."""
        return SEVERITIES

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """Rows corrupted, within the bounds of the training rows."""
        moved = self.corrupted(x, box, self.draws(x, numbers))
        return Attacked(box.inside(x, moved) if self.pictures_only else moved)

    @abstractmethod
    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        """A changed copy of rows [N, ...]."""


class Blur(Corruption):
    """A Gaussian blur; sigma is a share of the shorter side, and borders are repeated."""

    type: Literal["blur"] = "blur"
    """Out of focus."""
    strengths = (0.02, 0.03, 0.045, 0.06, 0.08)

    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        planes = x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1)
        sigma = self.strength * min(planes.shape[-2:])
        reach = min(math.ceil(3 * sigma), min(planes.shape[-2:]) - 1)
        weights = torch.exp(-torch.arange(-reach, reach + 1, dtype=x.dtype).square() / (2 * sigma**2))
        weights = (weights / weights.sum()).to(x.device)
        flat = planes.flatten(0, 1).unsqueeze(1)
        flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), weights.view(1, 1, 1, -1))
        flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), weights.view(1, 1, -1, 1))
        planes = flat.view_as(planes)
        return planes.squeeze(1) if x.ndim == 3 else planes.movedim(1, -1)


class Contrast(Corruption):
    """mean + c (x - mean) with the mean of each image."""

    type: Literal["contrast"] = "contrast"
    """Towards the image's own grey."""
    strengths = (0.75, 0.5, 0.4, 0.3, 0.15)

    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        mean = x.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        return mean + self.strength * (x - mean)


class Brightness(Corruption):
    """x plus a share of the training rows' range, clipped."""

    type: Literal["brightness"] = "brightness"
    """Too much light."""
    strengths = (0.1, 0.2, 0.3, 0.4, 0.5)

    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        return x + self.strength * _span(box, x)


class Shift(Corruption):
    """Moved by a share of each side, to one of the four corners; what comes in is the lowest value."""

    type: Literal["shift"] = "shift"
    """Off centre, by whole pixels and at least one."""
    strengths = (0.04, 0.08, 0.12, 0.16, 0.2)

    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        moved = x
        for axis in (1, 2):
            extent = x.shape[axis]
            signs = draws.below(2, (len(x),)) * 2 - 1
            sources = torch.arange(extent, device=x.device) - (signs * math.ceil(self.strength * extent)).unsqueeze(1)
            shape = [len(x) if i == 0 else extent if i == axis else 1 for i in range(x.ndim)]
            inside = ((sources >= 0) & (sources < extent)).view(shape)
            taken = moved.gather(axis, sources.clamp(0, extent - 1).view(shape).expand_as(moved))
            moved = torch.where(inside, taken, _low(box, x))
        return moved


class Occlusion(Corruption):
    """A rectangle of a share of both sides, somewhere, at the middle of the training rows' range."""

    type: Literal["occlusion"] = "occlusion"
    """Partly covered."""
    strengths = (0.15, 0.25, 0.35, 0.45, 0.55)

    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        covered = torch.ones(1, dtype=torch.bool, device=x.device)
        for axis in (1, 2):
            extent = x.shape[axis]
            side = max(1, round(self.strength * extent))
            first = draws.below(extent - side + 1, (len(x),)).view(-1, *[1] * (x.ndim - 1))
            places = torch.arange(extent, device=x.device).view([-1 if i == axis else 1 for i in range(x.ndim)])
            covered = covered & (places >= first) & (places < first + side)
        return torch.where(covered, _low(box, x) + _span(box, x) / 2, x)


class Missing(Corruption):
    """Each field missing with a probability: a number is its training mean, with its indicator; a pixel the lowest value."""

    type: Literal["missing"] = "missing"
    """Fields that are not there."""
    strengths = (0.1, 0.2, 0.3, 0.4, 0.5)
    pictures_only = False

    def corrupted(self, x: Tensor, box: Box, draws: Draws) -> Tensor:
        if box.blank is None or box.fields is None:
            raise ValueError("a box for missing fields knows what a missing one looks like")
        count = int(box.fields.max()) + 1
        gone = draws.uniform((len(x), count)) < self.strength
        return torch.where(gone[:, box.fields.flatten()].view_as(x), box.blank.to(x.dtype), x)


def _low(box: Box, x: Tensor) -> Tensor:
    return (box.low if box.low is not None else x.min()).to(x.dtype)


def _span(box: Box, x: Tensor) -> Tensor:
    return (box.high if box.high is not None else x.max()).to(x.dtype) - _low(box, x)
