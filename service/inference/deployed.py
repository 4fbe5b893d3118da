"""The deployed predictor as attacks see it: the loss of what is really answered, on the request's point of both axes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.inference.asking import ask, passes, quiet
from service.inference.model import Model
from service.inference.pools import Classes
from service.tricks.modes import Axes
from service.tricks.targets import agrees

FRESH = 2**62
"""Added to a request's seed for the masks that an attack sees; the answer is judged with the request's own."""
MOST_MASKS = 30
"""Masks per member that a gradient is averaged over; more change it little (science of EOT: 10 and 30 agree)."""


@dataclass(frozen=True)
class Deployed:
    """A model, a point on its axes, and a target of classes with labels that count as right; `beat` as of `ask`.

    Labels are indices [N], or distributions [N, C], of which the most probable class is right, or any of equals.
    """

    model: Model
    axes: Axes
    target: str
    labels: Tensor
    criterion: str = "cross_entropy"
    beat: Callable[[], None] = quiet

    def __call__(self, x: Tensor) -> Tensor:
        """The loss [N] of the averaged probability, or its margin: max of the others minus the label's."""
        logs = log_mean_probability(self.model, attacked(self.axes), self.target, x, beat=self.beat)
        if self.criterion == "cross_entropy" and self.labels.is_floating_point():
            return -(self.labels.to(logs.dtype) * logs).sum(-1)
        places = self.right.unsqueeze(1)
        right = logs.gather(-1, places).squeeze(1)
        if self.criterion == "cross_entropy":
            return -right
        others = logs.scatter(-1, places, -math.inf).amax(-1)
        return others - right

    @property
    def right(self) -> Tensor:
        """The index of the class that counts as right [N]."""
        return self.labels.argmax(-1) if self.labels.is_floating_point() else self.labels

    def broken(self, x: Tensor) -> Tensor:
        """Rows [N] whose answer is not the label."""
        answer = ask(self.model, x, self.axes, beat=self.beat)[self.target]
        return ~agrees(answer.prediction, self.labels) if isinstance(answer, Classes) else torch.zeros(len(x), dtype=torch.bool)

    def only(self, chosen: Tensor) -> "Deployed":
        """The same for some of the rows."""
        return replace(self, labels=self.labels[chosen])


@dataclass(frozen=True)
class DeployedNumbers:
    """The same for a regression target with values [N, D]: the loss is the squared error, and no row is ever broken."""

    model: Model
    axes: Axes
    target: str
    values: Tensor
    beat: Callable[[], None] = quiet

    def __call__(self, x: Tensor) -> Tensor:
        """The squared error [N] of the averaged prediction, in the target's unit."""
        mean: Tensor | None = None
        for said, weight in _answers(self.model, attacked(self.axes), self.target, x, beat=self.beat):
            part = (said * weight.view(-1, 1, 1).to(said.dtype)).sum(0)
            mean = part if mean is None else mean + part
        if mean is None:
            raise TypeError("a model has members")
        return (mean - self.values).square().mean(-1)

    def broken(self, x: Tensor) -> Tensor:
        """Never: an error has a size, not a side."""
        return torch.zeros(len(x), dtype=torch.bool)

    def only(self, chosen: Tensor) -> "DeployedNumbers":
        """The same for some of the rows."""
        return replace(self, values=self.values[chosen])


def attacked(axes: Axes) -> Axes:
    """The axes that the gradient follows: under random masks, masks of another stream than those that judge."""
    if not axes.random:
        return axes
    samples = min(axes.samples, MOST_MASKS) if isinstance(axes.weights, str) else axes.samples
    return axes._replace(seed=(axes.seed + FRESH) % 2**63, samples=samples)


def log_mean_probability(model: Model, axes: Axes, target: str, x: Tensor, *, beat: Callable[[], None] = quiet) -> Tensor:
    """log of the weighted mean of the networks' probabilities [N, C], stable in float32, differentiable in x.

    One network's is its log-softmax; several are logsumexp_m(log p_m + log w_m). A geometric mean is
    the weighted mean of the log probabilities, renormalized.
    """
    logs = [(said.log_softmax(-1), weight) for said, weight in _answers(model, axes, target, x, beat=beat)]
    stacked, weights = torch.cat([part for part, _ in logs]), torch.cat([weight for _, weight in logs])
    w = weights.to(stacked.dtype).view(-1, 1, 1)
    if axes.combine == "geometric":
        return (stacked * w).sum(0).log_softmax(-1)
    return stacked[0] if len(stacked) == 1 else (stacked + w.log()).logsumexp(0)


def _answers(model: Model, axes: Axes, target: str, x: Tensor, *, beat: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """What the networks say, logits or means [m, N, ..], with their weights [m]."""
    for said, weights in passes(model, x, axes, fresh=False, beat=beat):
        values = said[target].logits if said[target].logits is not None else said[target].mean
        if values is not None:
            yield values, weights
