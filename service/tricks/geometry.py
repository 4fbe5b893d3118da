"""Images moved, turned, resized, mirrored and covered; what comes in from outside is 0 in the inputs' own unit.

Turned and resized images are sampled bilinearly about the image's centre, each transform by itself and in its place in the list.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from service.errors import Flaw
from service.tricks.choices import refuse
from service.tricks.streams import Draws
from service.tricks.transforms import Claim, ImageTransform, beside

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def shifted(x: Tensor, down: Places, right: Places) -> Tensor:
    """Images [N, H, W, ...] moved by whole pixels [N], zero-filled."""
    reach = int(max(np.abs(down).max(initial=0), np.abs(right).max(initial=0)))
    height, width = x.shape[1:3]
    held = F.pad(x, (*[0, 0] * (x.ndim - 3), reach, reach, reach, reach))
    windows = held.unfold(1, height, 1).unfold(2, width, 1)  # [N, 2 reach + 1, 2 reach + 1, ..., H, W]
    rows, top, left = torch.arange(len(x)), torch.from_numpy(reach - down), torch.from_numpy(reach - right)
    moved = windows[rows, top, left]
    return moved if x.ndim == 3 else moved.movedim(1, -1).contiguous()


def sampled(x: Tensor, linear: Floats) -> Tensor:
    """Images [N, H, W, ...] in which the pixel at p from the centre is what was at A p, with A = linear [N, 2, 2] on (x, y).

    Places between pixels are bilinear, those outside 0. Whole pixels come out exactly: padded to a power of 2 the
    image has coordinates that float32 holds without rounding.
    """
    height, width = x.shape[1:3]
    planes = x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1)
    tall, wide = (1 << (extent - 1).bit_length() for extent in (height, width))
    held = F.pad(planes, (0, wide - width, 0, tall - height))
    a = torch.from_numpy(linear.astype(np.float32)).to(x.device)
    across = torch.arange(width, device=x.device, dtype=torch.float32) - (width - 1) / 2
    along = torch.arange(height, device=x.device, dtype=torch.float32) - (height - 1) / 2
    grid = torch.empty(len(x), height, width, 2, device=x.device)
    for axis, (middle, extent) in enumerate((((width - 1) / 2, wide), ((height - 1) / 2, tall))):
        # In grid_sample's units a pixel is 2 / extent wide, and -1 is the outer edge of the first one.
        of_column = a[:, axis, 0, None] * across * (2 / extent)
        of_row = (a[:, axis, 1, None] * along + middle) * (2 / extent) - (1 - 1 / extent)
        torch.add(of_column.unsqueeze(1), of_row.unsqueeze(2), out=grid[..., axis])
    moved = F.grid_sample(held, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.squeeze(1) if x.ndim == 3 else moved.movedim(1, -1).contiguous()


def rotations(degrees: Floats) -> Floats:
    """The matrices [N, 2, 2] for `sampled` that turn an image counterclockwise; quarter turns are exact."""
    quarter = np.round(degrees / 90)
    rest = np.radians(degrees - 90 * quarter)
    c, s = np.cos(rest), np.sin(rest)
    turn = np.mod(quarter, 4).astype(np.int64)
    cosine, sine = np.choose(turn, [c, -s, -c, s]), np.choose(turn, [s, c, -s, -c])
    return np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)


class Translate(ImageTransform):
    """Moved by whole pixels down and right, each uniform between -`pixels` and `pixels`."""

    type: Literal["translate"] = "translate"
    """A shift."""
    pixels: Annotated[int, Field(ge=0, le=100_000, examples=[1])]
    """The largest shift along either axis."""

    def covers(self, height: int, width: int) -> Iterator[Flaw]:
        if self.pixels >= min(height, width):
            yield Flaw("/pixels", "value-out-of-range", f"it would move images of {height} x {width} out of sight")

    def claims(self) -> Iterator[Claim]:
        yield Claim("pixels", "translation_pixels", self.pixels)

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        steps = np.floor(draws.uniform(2) * (2 * self.pixels + 1)).astype(np.int64) - self.pixels
        return self.where_chosen(shifted(x, steps[:, 0], steps[:, 1]), x, draws)


class Rotate(ImageTransform):
    """Turned about the centre by an angle uniform between -`degrees` and `degrees`."""

    type: Literal["rotate"] = "rotate"
    """A rotation."""
    degrees: Annotated[float, Field(ge=0, le=360, examples=[10.0])]
    """The largest angle either way."""

    def claims(self) -> Iterator[Claim]:
        yield Claim("degrees", "rotation_degrees", self.degrees)

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        angles = self.degrees * (2 * draws.uniform(1)[:, 0] - 1)
        return self.where_chosen(sampled(x, rotations(angles)), x, draws)


class Scale(ImageTransform):
    """Resized about the centre by a factor uniform between `low` and `high`, the same along both axes."""

    type: Literal["scale"] = "scale"
    """A change of size."""
    low: Annotated[float, Field(ge=0.01, le=100)] = 0.9
    """The smallest factor."""
    high: Annotated[float, Field(ge=0.01, le=100)] = 1.1
    """The largest factor."""

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.low > self.high:
            raise refuse("inconsistent-spec", f"low is above high, {self.high}", pointer="/low")
        return self

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        factor = self.low + (self.high - self.low) * draws.uniform(1)[:, 0]
        return self.where_chosen(sampled(x, np.eye(2) / factor[:, None, None]), x, draws)


class Flip(ImageTransform):
    """Mirrored: `horizontal` swaps left and right, `vertical` top and bottom."""

    type: Literal["flip"] = "flip"
    """A mirror image."""
    axis: Annotated[Literal["horizontal", "vertical"], Field(examples=["horizontal"])]
    """What is swapped."""

    def claims(self) -> Iterator[Claim]:
        yield Claim("axis", f"{self.axis}_flip", True)

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        return self.where_chosen(x.flip(2 if self.axis == "horizontal" else 1), x, draws)


class Cutout(ImageTransform):
    """A square about a random pixel is set to 0, and cut off at the border (DeVries and Taylor 2017)."""

    type: Literal["cutout"] = "cutout"
    """A covered square."""
    size: Annotated[int, Field(ge=1, le=100_000, examples=[2])]
    """The square's side in pixels."""

    def covers(self, height: int, width: int) -> Iterator[Flaw]:
        if self.size > min(height, width):
            yield Flaw("/size", "value-out-of-range", f"images are {height} x {width}")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        box = boxes(draws.uniform(2), np.full((len(x), 2), self.size), *x.shape[1:3])
        inside = within(box, *x.shape[1:3]).to(x.device)
        return self.where_chosen(x.masked_fill(beside(inside, x), 0.0), x, draws)


def boxes(middle: Floats, sides: Places, height: int, width: int) -> Places:
    """Boxes [N, 4] (top, bottom, left, right; ends are outside) about pixels at shares `middle` [N, 2], cut off at the border."""
    extents = np.array([height, width])
    first = np.floor(middle * extents).astype(np.int64) - sides // 2
    low, high = np.clip(first, 0, extents), np.clip(first + sides, 0, extents)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def within(box: Places, height: int, width: int) -> Tensor:
    """Which pixels [N, H, W] lie in their row's box."""
    down, right = np.arange(height), np.arange(width)
    tall = (down >= box[:, :1]) & (down < box[:, 1:2])
    wide = (right >= box[:, 2:3]) & (right < box[:, 3:])
    return torch.from_numpy(tall[:, :, None] & wide[:, None, :])


def area(box: Places) -> Places:
    """Pixels in each box, [N]."""
    pixels: Places = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
    return pixels
