"""Weighted averages over M networks, gathered in float64 chunk by chunk, and the answers they end in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from service.tricks.decisions import Rule, decide
from service.tricks.modes import Combine
from service.tricks.multitask import Distribution


@dataclass(frozen=True)
class Classes:
    """A classification answer: probabilities and logits [N, C], entropies in nats [N]; None where one network cannot know."""

    probabilities: Tensor
    logits: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor | None
    agreement: Tensor | None
    members: Tensor | None
    """Probabilities of every network [M, N, C], when they were kept."""
    rules: Mapping[str, Tensor] = field(default_factory=dict)
    """Probabilities under every rule that combines."""
    decision: Rule = "argmax"
    """How they become a class."""

    def combined(self, rule: Combine) -> "Classes":
        """The same networks' answer under another rule."""
        return replace(self, probabilities=self.rules[rule])

    @property
    def prediction(self) -> Tensor:
        """Class indices [N], as the target decides; ties go to the earlier class."""
        return decide(self.probabilities, self.decision)


@dataclass(frozen=True)
class Numbers:
    """A regression answer in the target's unit, each [N, D]: mean and variances, None where unknown."""

    mean: Tensor
    aleatoric: Tensor | None
    epistemic: Tensor | None
    members: Distribution | None
    """What every network said [M, N, D], when it was kept."""
    weights: Tensor | None = None
    """The networks' weights [M], with what they said."""
    quantiles: Tensor | None = None
    """Of a head of quantiles [N, D, Q], averaged like the mean."""

    @property
    def variance(self) -> Tensor | None:
        """The sum of the variances that are known."""
        known = [part for part in (self.aleatoric, self.epistemic) if part is not None]
        return reduce(torch.add, known) if known else None


Answer = Classes | Numbers


def entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last axis, in nats; 0 log 0 is 0."""
    return -torch.xlogy(p, p).sum(-1)


def _weighted(weights: Tensor, parts: Tensor) -> Tensor:
    """The sum over the first axis of parts [m, ..] with weights [m]."""
    return (weights @ parts.reshape(len(weights), -1)).view(parts.shape[1:])


class ClassPool:
    """Sums of w_m p_m, w_m log p_m, votes and entropies over networks m with weights that add to 1."""

    def __init__(self, combine: Combine, *, keep: bool, decision: Rule = "argmax") -> None:
        self._combine = combine
        self._decision = decision
        self._kept: list[Tensor] | None = [] if keep else None
        self._count = 0
        self._last = torch.empty(0)
        self._sums: list[Tensor] = []

    def add(self, said: Distribution, weights: Tensor) -> None:
        """Take in logits [m, N, C] with weights [m]."""
        if said.logits is None:
            raise TypeError("a classification head says logits")
        logits = said.logits.double()
        logs = logits.log_softmax(-1)
        p = logs.exp()
        votes = torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
        # The logarithms are finite where logits are, so that this is the entropy without another logarithm.
        parts = [p, logs, votes, -(p * logs).sum(-1)]
        if self._decision != "argmax":
            parts.append(torch.zeros_like(p).scatter_(-1, decide(p, self._decision).unsqueeze(-1), 1.0))
        sums = [_weighted(weights.double(), part) for part in parts]
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._count += len(weights)
        self._last = logits[-1]
        if self._kept is not None:
            self._kept.append(p)

    def answer(self) -> Classes:
        """The average; uncertainty is that of the arithmetic mean, whatever the rule that combines."""
        average, logs, votes, aleatoric, *decided = self._sums
        rules = {"arithmetic": average, "geometric": logs.softmax(-1), "vote": votes}
        p = rules[self._combine]
        members = torch.cat(self._kept) if self._kept is not None else None
        total = entropy(average)
        if self._count == 1:
            return Classes(p, self._last, total, total, None, None, members, rules, self._decision)
        # Who agrees decides by itself as all do together.
        agreement = (decided or [votes])[0].gather(-1, decide(p, self._decision).unsqueeze(-1)).squeeze(-1)
        return Classes(p, p.log(), total, aleatoric, total - aleatoric, agreement, members, rules, self._decision)


class NumberPool:
    """Sums of w_m m_m, w_m m_m^2 and w_m s_m^2; means are taken relative to the first network's, lest their squares cancel.

    `noise` [D] is the variance that every network has whose head says none.
    """

    def __init__(self, *, keep: bool, noise: Tensor | None = None) -> None:
        self._noise = noise
        self._kept: list[Distribution] | None = [] if keep else None
        self._weights: list[Tensor] = []
        self._count = 0
        self._origin = torch.empty(0)
        self._shift: Tensor | None = None
        self._square: Tensor | None = None
        self._variance: Tensor | None = None
        self._quantiles: Tensor | None = None

    def add(self, said: Distribution, weights: Tensor) -> None:
        """Take in means and perhaps variances [m, N, D] with weights [m]."""
        if said.mean is None:
            raise TypeError("a regression head says means")
        mean, w = said.mean.double(), weights.double().view(-1, 1, 1)
        if self._noise is not None and said.variance is None:
            said = said._replace(variance=self._noise.to(mean).expand_as(mean))
        if not self._count:
            self._origin = mean[0]
        shifted = mean - self._origin
        self._shift = _plus(self._shift, (w * shifted).sum(0))
        self._square = _plus(self._square, (w * shifted.square()).sum(0))
        if said.variance is not None:
            self._variance = _plus(self._variance, (w * said.variance.double()).sum(0))
        if said.quantiles is not None:
            self._quantiles = _plus(self._quantiles, (w.unsqueeze(-1) * said.quantiles.double()).sum(0))
        self._count += len(w)
        if self._kept is not None:
            self._kept.append(said)
            self._weights.append(weights.double())

    def answer(self) -> Numbers:
        """Mean, mean variance, and the variance of the means (Lakshminarayanan 2017, section 2.4)."""
        if self._shift is None or self._square is None:
            raise TypeError("a pool without answers")
        spread = (self._square - self._shift.square()).clamp(min=0) if self._count > 1 else None
        weights = torch.cat(self._weights) if self._kept is not None else None
        return Numbers(self._origin + self._shift, self._variance, spread, _stacked(self._kept), weights, self._quantiles)


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _stacked(kept: list[Distribution] | None) -> Distribution | None:
    if kept is None:
        return None
    return _kept_along(kept, 0)


def _kept_along(kept: Sequence[Distribution], axis: int) -> Distribution:
    """What networks said, along an axis."""
    mean, variance, quantiles = (
        side_by_side(list(parts), axis) for parts in zip(*((said.mean, said.variance, said.quantiles) for said in kept), strict=True)
    )
    return Distribution(mean=mean, variance=variance, quantiles=quantiles)


def joined(answers: list[Answer]) -> Answer:
    """Answers on consecutive rows as one."""
    classes = [answer for answer in answers if isinstance(answer, Classes)]
    if classes:
        rows = {
            name: torch.cat([getattr(answer, name) for answer in classes]) for name in ("probabilities", "logits", "total", "aleatoric")
        }
        epistemic = side_by_side([answer.epistemic for answer in classes], 0)
        agreement = side_by_side([answer.agreement for answer in classes], 0)
        members = side_by_side([answer.members for answer in classes], 1)
        rules = {rule: torch.cat([answer.rules[rule] for answer in classes]) for rule in classes[0].rules}
        decision = classes[0].decision
        return Classes(**rows, epistemic=epistemic, agreement=agreement, members=members, rules=rules, decision=decision)
    numbers = [answer for answer in answers if isinstance(answer, Numbers)]
    kept = [answer.members for answer in numbers if answer.members is not None]
    said = _kept_along(kept, 1) if kept else None
    aleatoric = side_by_side([answer.aleatoric for answer in numbers], 0)
    epistemic = side_by_side([answer.epistemic for answer in numbers], 0)
    quantiles = side_by_side([answer.quantiles for answer in numbers], 0)
    return Numbers(torch.cat([answer.mean for answer in numbers]), aleatoric, epistemic, said, numbers[0].weights, quantiles)


def side_by_side(parts: list[Tensor | None], axis: int) -> Tensor | None:
    """The parts along an axis; None where any is unknown."""
    known = [part for part in parts if part is not None]
    return torch.cat(known, dim=axis) if known and len(known) == len(parts) else None
