"""Windows of the square attack: rectangles within images, and the two-sided pyramids that fill them (Andriushchenko et al. 2020)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.tricks.draws import Draws
from service.tricks.norms import rows


@dataclass(frozen=True)
class Windows:
    """One rectangle in each image [N, H, W, ...], of the same sides, by where its first corner lies [N], [N]."""

    like: Tensor
    sides: tuple[int, int]
    first: tuple[Tensor, Tensor]

    @classmethod
    def drawn(cls, like: Tensor, covered: float, draws: Draws, *, pyramids: bool = False) -> "Windows":
        """Squares of that share of the pixels, as far as they have room, anywhere; for pyramids odd and at least 3 wide."""
        height, width = like.shape[1:3]
        side = max(1, round(math.sqrt(covered * height * width)))
        side = max(3, side | 1) if pyramids else side
        sides = min(side, height), min(side, width)
        first = [draws.below(extent - most + 1, (len(like),)) for extent, most in zip((height, width), sides, strict=True)]
        return cls(like, sides, (first[0], first[1]))

    def _within(self) -> tuple[Tensor, Tensor]:
        """How far each row of pixels [N, H, 1] and each column [N, 1, W] lies behind the window's first."""
        down, along = (torch.arange(extent, device=self.like.device) for extent in self.like.shape[1:3])
        return (down - self.first[0][:, None])[:, :, None], (along - self.first[1][:, None])[:, None, :]

    def inside(self) -> Tensor:
        """Which pixels lie in them, as booleans that broadcast against the images."""
        down, along = self._within()
        inside = (down >= 0) & (down < self.sides[0]) & (along >= 0) & (along < self.sides[1])
        return _over(inside, self.like)

    def pyramids(self, draws: Draws) -> Tensor:
        """Two pyramids of opposite signs in each, one above or one beside the other, and 0 elsewhere."""
        down, along = (place.clamp(0, side - 1) for place, side in zip(self._within(), self.sides, strict=True))
        upright, lying = (pattern.to(self.like.device)[down, along] for pattern in pair(*self.sides))
        turned = draws.below(2, (len(self.like),)) == 1
        shape = _over(torch.where(rows(turned, upright), lying, upright), self.like)
        return shape.to(self.like.dtype) * self.inside()


def _over(each: Tensor, like: Tensor) -> Tensor:
    """What pixels [N, H, W] have, broadcast against [N, H, W, ...]."""
    return each.view(*each.shape, *[1] * (like.ndim - 3))


def pyramid(height: int, width: int) -> Tensor:
    """Steps of 1 / (r + 1)^2 towards the middle, r being how many pixels a step is away from it [height, width] (ibid., equation 2)."""
    most = max(height // 2, width // 2)
    heights = (1 / torch.arange(1, most + 2, dtype=torch.float64) ** 2).flip(0).cumsum(0).flip(0)
    down, along = ((torch.arange(side) - side // 2).abs() for side in (height, width))
    return heights[torch.maximum(down[:, None], along[None, :])]


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two pyramids of opposite signs and of length 1 together [height, width]: one above the other, one beside the other."""
    upright, lying = _upright(height, width), _upright(width, height).T
    return upright / upright.norm(), lying / lying.norm()


def _upright(height: int, width: int) -> Tensor:
    half = height // 2
    above = pyramid(half, width) / pyramid(half, width).norm() if half else torch.zeros(0, width, dtype=torch.float64)
    below = pyramid(height - half, width)
    return torch.cat([above, -below / below.norm()])


def tiles(like: Tensor, draws: Draws) -> Tensor:
    """Images [N, H, W, ...] full of such pairs, five to the shorter side, each with a sign of its own per channel (ibid., section 3.3)."""
    height, width = like.shape[1:3]
    side = max(1, min(height, width) // 5)
    down, along = height // side, width // side
    upright, lying = (_over(pattern.repeat(down, along).to(like)[None], like) for pattern in pair(side, side))

    def drawn(*depth: int) -> Tensor:
        sides = draws.signs((len(like), down, along, *depth)) > 0
        return sides.repeat_interleave(side, 1).repeat_interleave(side, 2)

    tiled = torch.where(_over(drawn(), like), lying, upright) * torch.where(drawn(*like.shape[3:]), 1.0, -1.0)
    found, top, left = torch.zeros_like(like), (height - side * down) // 2, (width - side * along) // 2
    found[:, top : top + side * down, left : left + side * along] = tiled
    return found
