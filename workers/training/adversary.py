"""The loss that a step follows: on the batch, and on rows that adversarial training moved."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.inference.boxes import reach
from service.nets.bounds import worst
from service.nets.network import Network
from service.tricks.adversarial import FastTraining, FGSMTraining
from service.tricks.certification import IBPTraining
from service.tricks.divergence import divergence
from service.tricks.dropout import SCALED
from service.tricks.smoothing import TRADES, VAT
from workers.training.batches import Labels
from workers.training.run import Member
from workers.training.task import Task

Raw = dict[str, Tensor]


def objective(network: Network, task: Task, x: Tensor, labels: Labels, members: Sequence[Member] = (), *, progress: float = 1.0) -> Tensor:
    """The data loss, [] or each member's [K], part of it at adversarial inputs where the spec says so.

    `members` are those of the run, whose streams moved rows start from; without them nothing is random. `progress` is the share
    of the steps that are done, by which bounds are ramped up.
    """
    rule = task.spec.adversarial_training
    if rule is None:
        return task.loss(network(x, task.gate), labels)
    if isinstance(rule, IBPTraining):
        return bounded(network, task, x, labels, ramped=rule.ramped(progress))
    adversary = Adversary(network, task, members)
    if isinstance(rule, TRADES | VAT):
        return adversary.smoothed(rule, x, labels) if rule.factor else task.loss(network(x, task.gate), labels)
    if not rule.weight:
        return task.loss(network(x, task.gate), labels)
    if isinstance(rule, FGSMTraining) and rule.weight < 1 and adversary.same:
        return adversary.shared(rule, x, labels)
    return adversary.mixed(x, labels)


def bounded(network: Network, task: Task, x: Tensor, labels: Labels, *, ramped: float) -> Tensor:
    """(1 - w) J(x) + w J(worst), so much of `weight` and `epsilon` being in force; bounds are those of the network as it is served."""
    rule = task.spec.adversarial_training
    if not isinstance(rule, IBPTraining):
        raise TypeError("bounds have a ramp")
    share = rule.weight * ramped
    if share == 1 and not task.modal:
        return task.loss(worst(network, reach(x, rule.epsilon * ramped, task.box), labels), labels)
    # Taken at share 1 as well where there is batch norm: it moves the running statistics, before a graph of bounds holds them.
    clean = task.loss(network(x, task.gate), labels)
    if not share:
        return clean
    if task.modal:
        network.eval()
    bound = task.loss(worst(network, reach(x, rule.epsilon * ramped, task.box), labels), labels)
    if task.modal:
        network.train()
    return bound if share == 1 else (1 - share) * clean + share * bound


class Adversary:
    """A network in training and its members' streams; rows [B, ...] or [K, B, ...] are attacked one after the other [N, ...].

    An attack sees the network as it will be served: without dropout, with running statistics.
    """

    def __init__(self, network: Network, task: Task, members: Sequence[Member]) -> None:
        self._network = network
        self._task = task
        self._members = members
        self.same = task.gate is SCALED and not task.modal
        """Whether the network in training is the one that will be served."""

    def shared(self, rule: FGSMTraining, x: Tensor, labels: Labels) -> Tensor:
        """The mix, the clean pass of which gives the attack its slope as well.

        The gradient of the clean part goes into the parameters at once; the loss that comes back has no graph of it.
        """
        leaf = x.detach().requires_grad_(True)
        clean = self._task.loss(self._network(leaf, SCALED), labels) * (1 - rule.weight)
        (clean if clean.ndim == 0 else clean.sum()).backward()
        rows, movable, slope = self._rows(x), self._task.movable, leaf.grad
        if slope is None:
            raise RuntimeError("rows have a gradient after a backward pass")
        flat = slope.flatten(0, len(rows) - 1)
        moved = rule.along(x.flatten(0, len(rows) - 1), flat if movable is None else flat * movable).unflatten(0, rows)
        return rule.weight * self._task.loss(self._network(moved, SCALED), labels) + clean.detach()

    def mixed(self, x: Tensor, labels: Labels) -> Tensor:
        """(1 - weight) J(x) + weight J(x_adv)."""
        rule, task = self._task.spec.adversarial_training, self._task
        if rule is None or isinstance(rule, TRADES | VAT | IBPTraining):
            raise TypeError("a mix moves rows and has a weight")
        rows = self._rows(x)

        def loss_of(moved: Tensor) -> Tensor:
            return task.loss(self._network(moved.unflatten(0, rows), SCALED), labels)

        self._serve(rule.gradients > 0)
        flat = x.flatten(0, len(rows) - 1)
        if isinstance(rule, FastTraining):
            moved = rule.perturb(flat, loss_of, task.movable, self._streams, shares=self._shares(rows))
        else:
            moved = rule.perturb(flat, loss_of, task.movable, self._streams)
        self._learn()
        loss = task.loss(self._network(moved.unflatten(0, rows), task.gate), labels)
        if rule.weight == 1:
            return loss
        return rule.weight * loss + (1 - rule.weight) * task.loss(self._network(x, task.gate), labels)

    def smoothed(self, rule: TRADES | VAT, x: Tensor, labels: Labels) -> Tensor:
        """J(x) + factor KL(p(x) || p(x_adv))."""
        task, network, rows = self._task, self._network, self._rows(x)
        clean = network(x, SCALED) if self.same else None
        self._serve()
        if clean is None:
            with torch.no_grad():
                anchor = network(x, SCALED)
        else:
            anchor = _constant(clean)
        moved = rule.perturb(
            x.flatten(0, len(rows) - 1),
            lambda moved: self._between(anchor, network(moved.unflatten(0, rows), SCALED)),
            task.movable,
            self._streams,
        )
        self._learn()
        clean = network(x, task.gate) if clean is None else clean
        other = network(moved.unflatten(0, rows), task.gate)
        return task.loss(clean, labels) + rule.factor * self._between(_constant(clean) if rule.anchored else clean, other)

    def _between(self, raw: Raw, other: Raw) -> Tensor:
        """The mean divergence over rows, [] or [K], the sum over targets by weight; one that is learned counts as 1."""
        parts = [
            (1.0 if target.weight == "learned" else target.weight) * divergence(target, raw[target.name], other[target.name]).mean(-1)
            for target in self._task.loss.targets
        ]
        return sum(parts[1:], parts[0])

    @property
    def _streams(self) -> list[torch.Generator]:
        return [member.streams["adversarial"] for member in self._members]

    def _shares(self, rows: torch.Size) -> Tensor | None:
        """The share of the step that is left to each row's member; None where nobody was rolled back."""
        shares = [member.guard.share for member in self._members]
        if all(share == 1.0 for share in shares):
            return None
        return torch.tensor(shares, device=self._task.device).repeat_interleave(rows[-1])

    def _rows(self, x: Tensor) -> torch.Size:
        """[B], or [K, B] of a stack."""
        return x.shape[: 1 if self._network.members is None else 2]

    def _serve(self, gradients: bool = True) -> None:
        if self._task.modal and gradients:
            self._network.eval()

    def _learn(self) -> None:
        if self._task.modal:
            self._network.train()


def _constant(raw: Raw) -> Raw:
    return {name: values.detach() for name, values in raw.items()}
