"""What layer norm makes of boxes: z_i = (x_i - m) / sqrt(v + eps) over n features of mean m and variance v.

The deviations d = x - m are linear in x, so that each one's interval is exact; sqrt(v) = |d| / sqrt(n) changes by no more than
|radius| / sqrt(n), since taking the mean away makes no vector longer. Among the bounds that follow the narrowest is taken:

- with n (v + eps) = d_i^2 + Q_i + n eps, Q_i being the other deviations' squares, z_i rises with d_i, and falls with Q_i where d_i > 0;
- v is within what all squares leave, and within what the triangle inequality leaves of the center's.
"""

import torch
from torch import Tensor

TINY = 1e-12
"""Beside squares below roots, whose slopes have no end at 0."""


def normalized(center: Tensor, radius: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The lower and upper ends [.., n] of z, over the last axis."""
    n = center.shape[-1]
    mid = center - center.mean(-1, keepdim=True)
    far = radius * (1 - 2 / n) + radius.mean(-1, keepdim=True)
    low, high = mid - far, mid + far
    squares = _squares(low, high)
    middle, apart = ((part.square().mean(-1, keepdim=True) + TINY).sqrt() for part in (mid, radius))
    spread = ((middle - apart).clamp(min=0).square(), (middle + apart).square())
    return -_upper(-high, -low, squares, spread, eps), _upper(low, high, squares, spread, eps)


def _squares(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest squares of numbers between two ends."""
    ends = low.square(), high.square()
    return torch.where((low < 0) & (high > 0), torch.zeros_like(low), torch.minimum(*ends)), torch.maximum(*ends)


def _upper(low: Tensor, high: Tensor, squares: tuple[Tensor, Tensor], spread: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """The upper ends of z for deviations between `low` and `high`, their squares and their variance being between two numbers each."""
    n = low.shape[-1]
    least, most = (each.sum(-1, keepdim=True) - each for each in squares)  # of the other deviations
    # The others sum to -d_i, so that their squares are at least d_i^2 / (n - 1).
    own = high.square()
    little = torch.maximum((own + torch.maximum(least, own / max(n - 1, 1))) / n, spread[0])
    much = torch.minimum((own + most) / n, spread[1])
    return torch.where(high > 0, high / (little + eps).sqrt(), high / (much + eps).sqrt())
