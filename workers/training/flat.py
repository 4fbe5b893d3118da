"""Weights side by side in one buffer, so that what acts on every coordinate acts once."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Flat:
    """Parameters whose values are views of one buffer, in their order; autograd and optimizer notice nothing.

    The buffer's length is a multiple of `multiple`; what is left over at its end is 0.
    """

    def __init__(self, parameters: Sequence[Tensor], *, multiple: int = 1) -> None:
        self._bounds: dict[int, tuple[int, int]] = {}
        end = 0
        for parameter in parameters:
            self._bounds[id(parameter)] = (end, end + parameter.numel())
            end += parameter.numel()
        self.used, length = end, -(-end // multiple) * multiple
        self.values = torch.zeros(length, device=parameters[0].device, dtype=parameters[0].dtype) if parameters else torch.empty(0)
        for parameter in parameters:
            parameter.data = self.place(self.values, parameter, parameter.data)

    def place(self, buffer: Tensor, parameter: Tensor, values: Tensor) -> Tensor:
        """Copy a tensor of the parameter's shape to its place in a buffer; the view of that place."""
        view = self.view(buffer, values, of=parameter)
        view.copy_(values)
        return view

    def view(self, buffer: Tensor, shaped: Tensor, *, of: Tensor | None = None) -> Tensor:
        """A parameter's place in a buffer, in the shape of a tensor: its own, unless it is that `of` another."""
        low, high = self._bounds[id(shaped if of is None else of)]
        return buffer[low:high].view(shaped.shape)

    def spans(self, buffer: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The places of some parameters in a buffer, neighbours joined."""
        joined: list[tuple[int, int]] = []
        for low, high in sorted(self._bounds[id(parameter)] for parameter in parameters):
            if joined and joined[-1][1] == low:
                joined[-1] = (joined[-1][0], high)
            else:
                joined.append((low, high))
        return [buffer[low:high] for low, high in joined]
