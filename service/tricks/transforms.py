"""What every transform of augmentation says of itself: which rows it takes, and what a dataset has to allow for it."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from service.errors import Flaw
from service.tricks.streams import Draws
from service.values import Value


class Claim(NamedTuple):
    """Something under which rows are said to keep their label: a field of the transform, and the invariance that bounds it."""

    field: str
    invariance: str
    reach: float | bool
    """The largest change, or True for one that is made or not."""


class Blend(NamedTuple):
    """How rows are mixed: each keeps `share` [N] of itself and takes the rest from row `partner` [N]."""

    partner: Tensor
    share: Tensor
    pasted: Tensor | None = None
    """Pixels [N, H, W] that inputs take from the partner; None: all of them, by the shares."""

    def to(self, device: torch.device) -> "Blend":
        """The same where the rows are."""
        return Blend(self.partner.to(device), self.share.to(device), None if self.pasted is None else self.pasted.to(device))

    def inputs(self, x: Tensor) -> Tensor:
        """Mixed inputs [N, ...]."""
        if self.pasted is None:
            return _mixed(x, x[self.partner], beside(self.share, x))
        return torch.where(beside(self.pasted, x), x[self.partner], x)

    def labels(self, values: Tensor) -> Tensor:
        """Mixed labels [N, D]; what is missing (NaN) in either row is missing in the mix, unless nothing of that row is in it."""
        share, other = beside(self.share, values), values[self.partner]
        return torch.where(share == 1, values, torch.where(share == 0, other, _mixed(values, other, share)))


def _mixed(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    # Not torch.lerp: it rounds the last few of many numbers otherwise than the rest, so that neighbours would show.
    return share * own + (1 - share) * other


def beside(values: Tensor, x: Tensor) -> Tensor:
    """Values [N, ..] with axes for the rest of x [N, .., ...]."""
    return values.view(*values.shape, *[1] * (x.ndim - values.ndim))


class Transform(Value):
    """A change of training rows; rows are chosen with `probability`, and what a row draws follows from its own stream."""

    numbers_only: ClassVar[bool] = False
    """Whether categories and indicators, the columns of 0 and 1 of a table, are left alone."""
    pastes: ClassVar[bool] = False
    """Whether inputs are mixed by places and labels by shares, so that a label must not be the input itself."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of rows that is changed."""

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """A changed copy of rows x [N, ...], float32 in the inputs' own unit."""
        raise NotImplementedError

    def blend(self, shape: tuple[int, ...], draws: Draws) -> Blend | None:
        """How rows of this shape are mixed, labels and all; None where a row keeps its label."""
        return None

    def fits(self, shape: tuple[int, ...]) -> Iterator[Flaw]:
        """What keeps it from changing rows of this shape; pointers are within the transform."""
        yield from ()

    def claims(self) -> Iterator[Claim]:
        """What the dataset's invariances have to allow."""
        yield from ()

    def where_chosen(self, moved: Tensor, x: Tensor, draws: Draws) -> Tensor:
        """The moved rows where they were chosen, the others as they were."""
        chosen = draws.chosen(self.probability)
        return moved if chosen is None else torch.where(beside(torch.from_numpy(chosen).to(x.device), x), moved, x)


class Mixing(Transform):
    """A transform that mixes rows of a batch, and their labels with them."""

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        return self.blend(x.shape[1:], draws).to(x.device).inputs(x)

    def blend(self, shape: tuple[int, ...], draws: Draws) -> Blend:
        raise NotImplementedError


class ImageTransform(Transform):
    """A transform of images [N, H, W] or [N, H, W, C]."""

    def fits(self, shape: tuple[int, ...]) -> Iterator[Flaw]:
        if len(shape) not in (2, 3):
            message = f"it takes images [H, W] or [H, W, C], and a row is of shape {list(shape)}; other rows take gaussian_noise and mixup"
            yield Flaw("/type", "inconsistent-spec", message)
        else:
            yield from self.covers(*shape[:2])

    def covers(self, height: int, width: int) -> Iterator[Flaw]:
        """What is wrong with it for images of this size."""
        yield from ()
