"""Ways up a loss within a ball around rows [N, ...]: what methods of adversarial training share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.tricks.attacks import gradient
from service.tricks.draws import Common
from service.tricks.norms import NORMS, Norm, NormName

Loss = Callable[[Tensor], Tensor]
"""The loss to raise, a sum or mean over rows [N, ...]: each row's part of its gradient is its own."""
Streams = Sequence[torch.Generator]
"""A random stream for each equal part of the rows: the members of a stack lie one after the other. None: nothing is random."""


class Ball(NamedTuple):
    """Where rows may be moved to: a norm, its radius, and the entries that may move."""

    norm: NormName
    epsilon: float
    movable: Tensor | None = None

    @property
    def shape(self) -> Norm:
        """The norm as a noun."""
        return NORMS[self.norm]

    def slope(self, x: Tensor, loss_of: Loss) -> Tensor:
        """The gradient of the loss in the entries that may move."""
        slope = gradient(x, loss_of)
        return slope if self.movable is None else slope * self.movable

    def start(self, x: Tensor, streams: Streams) -> Tensor | None:
        """A perturbation uniform in the ball; None, the clean rows, without streams."""
        return drawn(x, streams, self._sample) if streams else None

    def _sample(self, part: Tensor, stream: torch.Generator) -> Tensor:
        return self.shape.sample(part, self.epsilon, Common(stream), self.movable)

    def climb(self, x: Tensor, loss_of: Loss, start: Tensor | None, *, size: float | Tensor, steps: int) -> Tensor:
        """Rows after projected steps of a length, one for all or broadcast against rows; no gradient flows through them."""
        x, delta, moved, room = x.detach(), start, torch.empty_like(x), torch.empty_like(x)
        for _ in range(steps):
            slope = self.slope(x if delta is None else torch.add(x, delta, out=moved), loss_of)
            ascent = self.shape.direction(slope, out=room)
            if delta is not None and isinstance(size, float):
                ascent = torch.add(delta, ascent, alpha=size, out=ascent)  # in one pass
            else:
                ascent = ascent.mul_(size) if delta is None else ascent.mul_(size).add_(delta)
            room = torch.empty_like(x) if delta is None or delta is start else delta
            delta = self.shape.project(ascent, self.epsilon, out=ascent)
        return x if delta is None else x + delta


def drawn(x: Tensor, streams: Streams, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
    """Numbers for each part of the rows from its own stream."""
    if len(streams) == 1:
        return draw(x, streams[0])
    return torch.cat([draw(part, stream) for part, stream in zip(x.chunk(len(streams)), streams, strict=True)])


def normal(x: Tensor, streams: Streams) -> Tensor:
    """Standard normal numbers of the rows' shape."""
    return drawn(x, streams, lambda part, stream: torch.randn(part.shape, generator=stream, device=part.device, dtype=part.dtype))
