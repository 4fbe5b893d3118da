"""The deployed predictor as attacks see it: the loss of what is really answered, on the request's point of both axes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.errors import invalid
from service.inference.asking import ask, passes, quiet
from service.inference.model import Model
from service.inference.pools import Classes
from service.tricks.criteria import CriterionName, criterion, margin
from service.tricks.modes import Asking, Axes
from service.tricks.perturbation import Look, Source
from service.tricks.targets import agrees

FRESH = 2**62
"""Added to a request's seed for the masks that an attack sees; the answer is judged with the request's own."""
MOST_MASKS = 30
"""Masks per member that a gradient is averaged over; more change it little (science of EOT: 10 and 30 agree)."""
DOUBT = 1e-3
"""Within this margin, in log probability, the float32 pass of an attack does not say who answers."""
ROUNDING = 1e-5
"""The same, as a share of the largest score."""


@dataclass(frozen=True)
class Deployed:
    """A model, a point on its axes, and a target of classes with labels that count as right; `beat` as of `ask`.

    Labels are indices [N], or distributions [N, C], of which the most probable class is right, or any of equals.
    `goals` [N]: the class to reach, None for any other. `leads` [N]: the class that the loss leads to though any other will
    do, None for none in particular. `source`: the point whose gradient is followed, None for that
    which answers.
    """

    model: Model
    axes: Axes
    target: str
    labels: Tensor
    criterion: CriterionName = "cross_entropy"
    beat: Callable[[], None] = quiet
    goals: Tensor | None = None
    leads: Tensor | None = None
    source: Axes | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The loss [N] of the averaged probability: what the criterion makes of it."""
        return self._loss(self.scores(x))

    def looked(self, x: Tensor) -> Look:
        """The loss, and who is broken where this pass can tell: not under other masks, by votes or by a rule of its own."""
        scores = self.scores(x)
        loss, said = self._loss(scores), scores.detach()
        if not self._tells:
            return Look(loss, *torch.ones(2, len(x), dtype=torch.bool))
        lead, doubt = margin(said, self.right, self.goals), DOUBT + ROUNDING * said.abs().amax(-1)
        if self.goals is not None or self.labels.is_floating_point():
            # More than a lead is asked for: not the label itself, and none of equally probable labels.
            return Look(loss, torch.zeros(len(x), dtype=torch.bool), lead > -doubt)
        return Look(loss, lead > doubt, lead.abs() <= doubt)

    @property
    def _tells(self) -> bool:
        """Whether the pass that an attack takes is the one that answers."""
        target = next(each for each in self.model.spec.targets or () if each.name == self.target)
        elsewhere = self.axes.random or self.source is not None
        return not elsewhere and self.axes.combine != "vote" and self.model.decision(target) == "argmax"

    def _loss(self, scores: Tensor) -> Tensor:
        goal = self.leads if self.leads is not None else self.goals
        if self.criterion == "cross_entropy" and goal is None and self.labels.is_floating_point():
            return -(self.labels.to(scores.dtype) * scores.log_softmax(-1)).sum(-1)
        return criterion(self.criterion, scores, self.right, goal)

    @property
    def right(self) -> Tensor:
        """The index of the class that counts as right [N]."""
        return self.labels.argmax(-1) if self.labels.is_floating_point() else self.labels

    def scores(self, x: Tensor) -> Tensor:
        """The logarithm [N, C] of the averaged probability that the gradient follows."""
        return log_mean_probability(self.model, attacked(self.source or self.axes), self.target, x, beat=self.beat)

    def broken(self, x: Tensor) -> Tensor:
        """Rows [N] whose answer is not the label; with goals: whose answer is the goal, and not the label."""
        answer = ask(self.model, x, self.axes, beat=self.beat)[self.target]
        if not isinstance(answer, Classes):
            raise TypeError("a class is attacked")
        wrong = ~agrees(answer.prediction, self.labels)
        return wrong if self.goals is None else wrong & (answer.prediction == self.goals)

    def only(self, chosen: Tensor) -> "Deployed":
        """The same for some of the rows."""
        goals, leads = (None if classes is None else classes[chosen] for classes in (self.goals, self.leads))
        return replace(self, labels=self.labels[chosen], goals=goals, leads=leads)

    def under(self, criterion: CriterionName) -> "Deployed":
        """The same with another criterion."""
        return replace(self, criterion=criterion)

    def towards(self, classes: Tensor) -> "Deployed":
        """The same on the way to a class, any but the right one breaking a row still."""
        return replace(self, leads=classes)

    def judge(self) -> "Deployed":
        """The predictor itself, without a goal: whether the answer is still right."""
        return replace(self, goals=None, leads=None, source=None)


@dataclass(frozen=True)
class DeployedNumbers:
    """The same for a regression target with values [N, D]: the loss is the squared error, and no row is ever broken."""

    model: Model
    axes: Axes
    target: str
    labels: Tensor
    beat: Callable[[], None] = quiet
    source: Axes | None = None

    @property
    def right(self) -> Tensor:
        """The value that is right."""
        return self.labels

    def __call__(self, x: Tensor) -> Tensor:
        """The squared error [N] of the averaged prediction, in the target's unit."""
        mean: Tensor | None = None
        for said, weight in _answers(self.model, attacked(self.source or self.axes), self.target, x, beat=self.beat):
            part = (said * weight.view(-1, 1, 1).to(said.dtype)).sum(0)
            mean = part if mean is None else mean + part
        if mean is None:
            raise TypeError("a model has members")
        return (mean - self.labels).square().mean(-1)

    def looked(self, x: Tensor) -> Look:
        """The loss, and that nobody is broken."""
        return Look(self(x), *torch.zeros(2, len(x), dtype=torch.bool))

    def scores(self, x: Tensor) -> Tensor:
        """A number has no classes."""
        raise TypeError("a number has no classes")

    def broken(self, x: Tensor) -> Tensor:
        """Never: an error has a size, not a side."""
        return torch.zeros(len(x), dtype=torch.bool)

    def only(self, chosen: Tensor) -> "DeployedNumbers":
        """The same for some of the rows."""
        return replace(self, labels=self.labels[chosen])

    def under(self, criterion: CriterionName) -> "DeployedNumbers":
        """The same: an error is an error under all of them."""
        return self

    def towards(self, classes: Tensor) -> "DeployedNumbers":
        """A number has no classes."""
        raise TypeError("a number has no classes")

    def judge(self) -> "DeployedNumbers":
        """The predictor itself."""
        return replace(self, source=None)


def source_axes(source: Source | None, axes: Axes, model: Model, *, where: str = "/attack") -> Axes | None:
    """The point whose gradient an attack follows, where it is not the one that answers; raises Invalid for a member that is not there."""
    if source is None:
        return None
    if isinstance(source.members, int) and source.members >= model.size:
        raise invalid(f"{where}/source/members", "value-out-of-range", f"the model has members 0 to {model.size - 1}")
    asked = Asking(members=source.members, dropout=axes.dropout if model.drops else None, samples=axes.samples, seed=axes.seed)
    return asked.axes(model)


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
    if len(logs) == 1 and len(logs[0][0]) == 1:
        return logs[0][0][0]
    stacked, weights = torch.cat([part for part, _ in logs]), torch.cat([weight for _, weight in logs])
    w = weights.to(stacked.dtype).view(-1, 1, 1)
    if axes.combine == "geometric":
        return (stacked * w).sum(0).log_softmax(-1)
    return (stacked + w.log()).logsumexp(0)


def _answers(model: Model, axes: Axes, target: str, x: Tensor, *, beat: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """What the networks say, logits or means [m, N, ..], with their weights [m]."""
    for said, weights in passes(model, x, axes, fresh=False, beat=beat):
        values = said[target].logits if said[target].logits is not None else said[target].mean
        if values is not None:
            yield values, weights
