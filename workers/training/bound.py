"""A penalty and the parameters that it acts on: those of one network, of a whole stack, or of one member's slices."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from service.tricks.optimization import MOMENTS, Optimizer, rate_of
from service.tricks.penalties import Regularizer
from service.tricks.projection import Border
from service.tricks.proximal import Scales
from service.tricks.sparsity import L0
from workers.training.flat import Flat

DENSE, SUPPORT = "dense", "support"
"""What an optimizer's state calls the weights before their projection, and its support once that is fixed: 1 stays, 0 goes."""


class Bound:
    """A penalty and the parameters that it acts on.

    `place` is that of the one member of a stack that it is for; None means a network of its own or all members alike.
    """

    def __init__(self, penalty: Regularizer, weights: Sequence[Tensor], place: int | None, *, stacked: bool) -> None:
        self.penalty = penalty
        self.weights = list(weights)
        self.place = place
        self._stacked = stacked
        self._scales: Scales | None = None
        self.places: list[Tensor] = []

    def _laid(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors along the parameters as the penalty takes them."""
        if self.place is not None:
            return [tensor[self.place] for tensor in tensors]
        return [own for tensor in tensors for own in self.penalty.by_member(tensor)] if self._stacked else list(tensors)

    def lie(self) -> None:
        """Act on the parameters where they are; views of them are taken once all have their places in memory."""
        whole = self.penalty.steers and self.place is None
        self.places = self.weights if whole else self._laid([weight.detach() for weight in self.weights])

    def lie_in(self, flat: Flat) -> None:
        """Act on the parameters' places in a buffer, which is quicker than one by one."""
        self.places = flat.spans(flat.values, self.weights)

    def take_state(self, optimizer: torch.optim.Optimizer, flat: Flat | None, buffer: Tensor | None) -> None:
        """Find the second moments of its parameters: in the buffer where they were put, or their member's slices."""
        if not self.penalty.proximal:
            return
        if flat is not None and buffer is not None:
            moments = flat.spans(buffer, self.weights)
        else:
            held = [optimizer.state[weight].get(MOMENTS) for weight in self.weights]
            moments = [moment if self.place is None else moment[self.place] for moment in held if moment is not None]
        self._scales = Scales(self.places, moments)

    def add_gradient(self) -> None:
        """Add the penalty's gradient, before the optimizer's step."""
        if self.place is not None:
            for weight, own in zip(self.weights, self.places, strict=True):
                own.grad = weight.grad[self.place] if weight.grad is not None else None
        self.penalty.add_gradient(self.places)

    def shrink(self, optimizer: torch.optim.Optimizer, kind: Optimizer, *, late: bool) -> None:
        """Shrink or project the parameters, after the optimizer's step."""
        at = self.place or 0
        metric = kind.metric(optimizer, self._scales, place=at) if self._scales is not None else None
        self.penalty.shrink(self.places, learning_rate=rate_of(optimizer, at), metric=metric)

    def of(self, place: int) -> list[Tensor]:
        """The parameters of the member at that place."""
        return [weight[place] for weight in self.weights] if self._stacked else self.weights


class Projection(Bound):
    """An L0 projection: which weights stay is chosen anew after every step of the first half of training, then never again.

    In the first half the optimizer goes on from the weights as they were before the projection, so that what was dropped can
    come back (Lin et al. 2020, "Dynamic model pruning with feedback"): from 0 it would have to get past the border in one step.
    These weights, and later the support, are parts of the optimizer's state, and so of every checkpoint; what borders remember
    is not, since it changes no result.
    """

    def __init__(self, penalty: Regularizer, weights: Sequence[Tensor], place: int | None, *, stacked: bool) -> None:
        super().__init__(penalty, weights, place, stacked=stacked)
        self._borders: list[Border] = []
        self._dense: list[Tensor] | None = None
        self._pairs: list[tuple[Any, Any]] = []
        self._supports: list[Tensor] | None = None
        self._state: object = None

    def lie(self) -> None:
        super().lie()
        self._borders = [Border(own, self.penalty.kept(own.numel())) for own in self.places if isinstance(self.penalty, L0)]

    def refill(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the optimizer's step: the weights as they were before the last projection."""
        if optimizer.state is not self._state:
            self._state = optimizer.state
            self._dense, self._supports = (self._held(optimizer, name) for name in (DENSE, SUPPORT))
            self._pair()
        if self._supports is None:
            for own, dense in self._pairs:
                own[...] = dense

    def shrink(self, optimizer: torch.optim.Optimizer, kind: Optimizer, *, late: bool) -> None:
        if self._supports is None:
            if self._dense is None:
                self._dense = self._new(optimizer, DENSE)
                self._pair()
            for border, (_, dense) in zip(self._borders, self._pairs, strict=True):
                border.project(dense)
            if late:
                self._supports = self._new(optimizer, SUPPORT)
                for support, own in zip(self._supports, self.places, strict=True):
                    support.copy_(own != 0)
        else:
            torch._foreach_mul_(self.places, self._supports)

    def _pair(self) -> None:
        """Each weight and its place for what it was: on a CPU as numpy, which copies sooner."""
        pairs = list(zip(self.places, self._dense or [], strict=self._dense is not None))
        on_cpu = all(own.device.type == "cpu" for own in self.places)
        self._pairs = [(own.numpy(), dense.numpy()) for own, dense in pairs] if on_cpu else pairs

    def _held(self, optimizer: torch.optim.Optimizer, name: str) -> list[Tensor] | None:
        held = [optimizer.state[weight][name] for weight in self.weights if name in optimizer.state[weight]]
        return self._laid(held) if held else None

    def _new(self, optimizer: torch.optim.Optimizer, name: str) -> list[Tensor]:
        """A tensor along each parameter in the optimizer's state."""
        return self._laid([optimizer.state[weight].setdefault(name, torch.zeros_like(weight)) for weight in self.weights])
