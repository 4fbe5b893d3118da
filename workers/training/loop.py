"""The training loop: a generator of epochs. Whoever drives it records, reports, checkpoints and stops."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from service.errors import TemperError
from service.inference.asking import quiet
from service.inference.material import Material
from service.nets.base import BatchNorm
from service.nets.network import Network
from service.tricks.dropout import SCALED
from service.tricks.optimization import Constant, rate_of, set_rates
from service.tricks.stopping import Patience
from workers.training.batches import Batches, Labels, batch_rows
from workers.training.evaluation import Evaluation, Values
from workers.training.objective import DataLoss, Penalties
from workers.training.own_penalties import OwnPenalties
from workers.training.run import Member, Run


class Diverged(TemperError):
    """The loss became infinite or not a number before any epoch was worth keeping."""

    status, slug, title = 422, "diverged", "Training diverged"


@dataclass(frozen=True)
class Epoch:
    """A finished epoch: its number from 1, the steps so far, what was measured of each member by series name, and who ended.

    A checkpoint of the run goes with what was done of the members that have ended: they are no longer part of a stack.
    """

    epoch: int
    step: int
    measured: dict[int, Values] = field(default_factory=dict)
    ended: tuple[Member, ...] = ()

    @property
    def values(self) -> Values:
        """What was measured of the member of a run of one."""
        (values,) = self.measured.values()
        return values


@dataclass(frozen=True)
class Tick:
    """A moment inside a long epoch, for progress, orders and checkpoints; `share` of the epoch is done."""

    share: float


class Task:
    """What does not change while a run's members train: data, objective, schedule, rules."""

    def __init__(self, material: Material, run: Run, device: torch.device, *, beat: Callable[[], None] = quiet) -> None:
        spec = material.spec
        chosen = [spec.ensemble.rows(member.number, material.parts.train, seed=spec.seed) for member in run.members]
        rows = chosen[0] if run.network.members is None else np.stack(chosen)
        self.material = material
        self.spec = spec
        self.device = device
        self.beat = beat
        self.batches = Batches(material.inputs, material.labels, rows, size=batch_rows(material), device=device)
        self.loss = DataLoss(spec.targets or (), material.labels)
        own = [spec.of(member.number) for member in run.members]
        self.rates = [each.optimizer.learning_rate for each in own]
        """The members' learning rates, before the schedule."""
        apart = run.network.members is not None and spec.ensemble.varies("learning_rate", "alpha")
        self.penalties = OwnPenalties(own, run.network) if apart else Penalties(own[0], run.network)
        self.parameters = list(run.network.parameters())
        self.modal = any(isinstance(module, BatchNorm) for module in run.network.modules())
        """Whether training and evaluation differ in more than dropout, which is an argument."""
        plain = material.encoding.plain
        self.movable = torch.cat([torch.ones(material.encoding.shape[0] - plain), torch.zeros(plain)]).to(device) if plain else None
        """Categories and indicators are not moved by adversarial training."""
        self.every = len(self.batches)
        self.scheduled = not isinstance(spec.schedule, Constant)
        self.steps = min(spec.epochs * len(self.batches), spec.max_steps or spec.epochs * len(self.batches))
        self.gate = run.gate if spec.drops else SCALED
        self.curves = {"train.loss", "validation.loss", spec.monitored or "validation.loss"}
        self.evaluate = Evaluation(material, sum(site.units for site in run.network.sites), device, beat)


def train(run: Run, task: Task, *, tick_s: float = 0.25, clock: Callable[[], float] = time.monotonic) -> Iterator[Epoch | Tick]:
    """Train until every member has a reason to end, yielding each epoch, and ticks in between when epochs are long."""
    yielded = -math.inf
    while run.reason is None:
        if not run.network.training:
            run.network.train()
        if run.order is None or run.loss is None:
            run.order, run.position = task.batches.order(run.streams("order")), 0
            run.loss = torch.zeros(() if run.network.members is None else len(run.members), device=task.device)
        for x, labels in task.batches.walk(run.order, run.position):
            loss = step(run, task, x, labels)
            run.loss.add_(loss, alpha=x.shape[run.order.ndim - 1])
            run.position += 1
            run.step += 1
            if run.step >= task.steps:
                break
            if clock() - yielded > tick_s:
                yield Tick(run.position / len(task.batches))
                yielded = clock()
                if _stopped(run):
                    return
        record = finish_epoch(run, task)
        if record.ended and run.reason is None:
            run.leave(record.ended, task.material)
            task = Task(task.material, run, task.device, beat=task.beat)
        yield record
        yielded = clock()


def _stopped(run: Run) -> bool:
    """Whether whoever drives the loop has given the run a reason to end."""
    return run.reason is not None


def step(run: Run, task: Task, x: Tensor, labels: Labels) -> Tensor:
    """One optimizer step on a batch; returns the mean data loss, [] or each member's [K], detached."""
    network, spec = run.network, task.spec
    if spec.augmentation or spec.adversarial_training is not None:
        x = x.to(torch.float32)
        for transform in spec.augmentation:
            x = _augmented(transform, x, run)
    loss = objective(network, task, x, labels)
    (loss if loss.ndim == 0 else loss.sum()).backward()
    if task.scheduled:
        factor = spec.schedule.multiplier(run.step, steps_per_epoch=task.every, steps=spec.epochs * task.every)
        set_rates(run.optimizer, [rate * factor for rate in task.rates])
    with torch.no_grad():
        task.penalties.add_gradients()
        if spec.gradient_clip is not None:
            spec.gradient_clip(task.parameters, members=network.members)
        run.optimizer.step()
        task.penalties.shrink(run.optimizer)
    for parameter in task.parameters:
        parameter.grad = None
    return loss.detach()


def _augmented(transform: Callable[[Tensor, torch.Generator], Tensor], x: Tensor, run: Run) -> Tensor:
    """The batch as each member sees it, changed by the numbers of its own stream."""
    streams = run.streams("augmentation")
    if run.network.members is None:
        return transform(x, streams[0])
    return torch.stack([transform(own, stream) for own, stream in zip(x, streams, strict=True)])


def objective(network: Network, task: Task, x: Tensor, labels: Labels) -> Tensor:
    """The data loss, [] or each member's [K], part of it at adversarial inputs where the spec says so."""
    adversarial = task.spec.adversarial_training
    if adversarial is None:
        return task.loss(network(x, task.gate), labels)
    # The attack sees the network as it will be served: without dropout, with running statistics.
    if task.modal:
        network.eval()
    rows = x.shape[: 1 if network.members is None else 2]
    flat = x.flatten(0, len(rows) - 1)

    def loss_of(moved: Tensor) -> Tensor:
        return task.loss(network(moved.unflatten(0, rows), SCALED), labels).sum()

    moved = adversarial.perturb(flat, loss_of, task.movable).unflatten(0, rows)
    if task.modal:
        network.train()
    loss = adversarial.weight * task.loss(network(moved, task.gate), labels)
    if adversarial.weight < 1:
        loss = loss + (1 - adversarial.weight) * task.loss(network(x, task.gate), labels)
    return loss


def finish_epoch(run: Run, task: Task) -> Epoch:
    """Measure, apply early stopping, and decide for each member whether training goes on."""
    run.epoch += 1
    rows = min(run.position * task.batches.size, task.batches.rows)
    losses = [] if run.loss is None else run.loss.reshape(-1).tolist()
    validation = task.evaluate(run.network)
    run.order = None
    measured: dict[int, Values] = {}
    for place, member in enumerate(run.members):
        values = {"train.loss": losses[place] / rows, "learning_rate": rate_of(run.optimizer, place)}
        penalties = task.penalties.values(place)
        values["train.objective"] = values["train.loss"] + sum(penalties.values())
        values |= {f"penalty.{name}": value for name, value in penalties.items()}
        values |= {f"validation.{name}": value for name, value in validation[place].items()}
        for name in task.curves & values.keys():
            member.history.setdefault(name, []).append(values[name])
        _decide(run, task, place, values)
        measured[member.number] = values
    return Epoch(run.epoch, run.step, measured, tuple(member for member in run.members if member.reason is not None))


def _decide(run: Run, task: Task, place: int, values: Values) -> None:
    """Set the member's reason when it ends with this epoch."""
    member, stopping, watched = run.members[place], task.spec.early_stopping, task.spec.monitored
    if not math.isfinite(values["train.loss"]):
        if not member.best:
            lost = f"The loss of member {member.number} was {values['train.loss']} in epoch {run.epoch}; lower the learning rate."
            raise Diverged(lost)
        member.reason = "diverged"
        return
    if stopping is None or watched is None:
        member.patience = Patience(epoch=run.epoch, step=run.step)
        run.keep_best(place)
    else:
        member.patience = stopping.observe(member.patience, values[watched], epoch=run.epoch, step=run.step)
        if member.patience.epoch == run.epoch:
            run.keep_best(place)
        if stopping.stops(member.patience):
            member.reason = "early_stopping"
    if member.reason is None and run.step >= task.steps:
        member.reason = "epochs" if run.epoch >= task.spec.epochs else "max_steps"
    if member.reason is not None and not member.best and watched is not None:
        raise Diverged(f"{watched} of member {member.number} was never a finite number; nothing is worth keeping.")
