"""The training loop: a generator of epochs. Whoever drives it records, reports, checkpoints and stops."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from service.errors import TemperError
from service.tricks.optimization import rate_of
from service.tricks.stopping import SECOND, Patience, Second
from workers.training.evaluation import Values
from workers.training.gradients import EARLY, moments
from workers.training.run import Member, Run
from workers.training.steps import step
from workers.training.task import Task


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
    notes: tuple[str, ...] = ()
    """What the job's log should say."""

    @property
    def values(self) -> Values:
        """What was measured of the member of a run of one."""
        (values,) = self.measured.values()
        return values


@dataclass(frozen=True)
class Tick:
    """A moment inside a long epoch, for progress, orders and checkpoints; `share` of the epoch is done."""

    share: float


def train(run: Run, task: Task, *, tick_s: float = 0.25, clock: Callable[[], float] = time.monotonic) -> Iterator[Epoch | Tick]:
    """Train until every member has a reason to end, yielding each epoch, and ticks in between when epochs are long."""
    yielded = -math.inf
    while run.reason is None:
        if not run.network.training:
            run.network.train()
        if run.order is None or run.loss is None:
            run.order, run.position = task.batches.order(run.streams("order")), 0
            run.loss = torch.zeros(() if run.network.members is None else len(run.members), device=task.device)
        for batch in task.batches.walk(run.order, run.position):
            loss = step(run, task, batch)
            run.loss.add_(loss, alpha=batch.rows.shape[-1])
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


def finish_epoch(run: Run, task: Task) -> Epoch:
    """Measure, apply early stopping, and decide for each member whether training goes on."""
    run.epoch += 1
    rows = min(run.position * task.batches.size, task.batches.rows)
    losses = [] if run.loss is None else run.loss.reshape(-1).tolist()
    validation = task.evaluate(run.network)
    scores = task.watch.scores(run.network, task.movable) if task.watch is not None else None
    run.order = None
    if run.second is None and run.step >= EARLY and run.members[0].early is None:
        for member, moment in zip(run.members, moments(task.material, run.network, run.step), strict=True):
            member.early = moment
    measured: dict[int, Values] = {}
    notes: list[str | None] = []
    for place, member in enumerate(run.members):
        values = {"train.loss": losses[place] / rows, "learning_rate": rate_of(run.optimizer, place)}
        penalties = task.penalties.values(place)
        values["train.objective"] = values["train.loss"] + sum(penalties.values())
        values |= {f"penalty.{name}": value for name, value in penalties.items()}
        values |= {f"sparsity.{name}": share for name, share in task.penalties.sparsity(place).items()}
        values |= {f"validation.{name}": value for name, value in validation[place].items()}
        if task.watch is not None and scores is not None:
            notes.append(task.watch.judge(run, place, scores, values))
        _decide(run, task, place, values)
        if run.second is not None:
            values = {f"{SECOND}{name}": value for name, value in values.items()}
        for name in task.curves & values.keys():
            member.history.setdefault(name, []).append(values[name])
        measured[member.number] = values
    ended = tuple(member for member in run.members if member.reason is not None)
    return Epoch(run.epoch, run.step, measured, ended, tuple(note for note in notes if note is not None))


def _decide(run: Run, task: Task, place: int, values: Values) -> None:
    """Set the member's reason when it ends with this epoch."""
    member, stopping, watched = run.members[place], task.spec.early_stopping, task.spec.monitored
    if not math.isfinite(values["train.loss"]):
        if not member.best:
            lost = f"The loss of member {member.number} was {values['train.loss']} in epoch {run.epoch}; lower the learning rate."
            raise Diverged(lost)
        member.reason = "diverged"
    elif member.second is not None:
        _decide_second(run, member.second, values.get("validation.loss"))
    elif stopping is None or watched is None:
        _keep_last(run, place)
    else:
        value = math.nan if member.guard.back_in(run.epoch) else values[watched]
        member.patience = stopping.observe(member.patience, value, epoch=run.epoch, step=run.step)
        if member.patience.epoch == run.epoch:
            run.keep_best(place, moments=stopping.then == "continue")
        if stopping.stops(member.patience):
            member.reason = "early_stopping"
    if member.reason is None and run.step >= task.steps:
        member.reason = "epochs" if run.epoch >= task.spec.epochs else "max_steps"
    if member.reason is not None and not member.best and watched is not None:
        raise Diverged(f"{watched} of member {member.number} was never a finite number; lower the learning rate.")


def _keep_last(run: Run, place: int) -> None:
    """Where nothing is monitored the last weights are kept, unless the epoch's last step broke them."""
    member = run.members[place]
    if run.finite(place):
        member.patience = Patience(epoch=run.epoch, step=run.step)
        run.keep_best(place)
    elif member.best:
        member.reason = "diverged"
    else:
        raise Diverged(f"Weights of member {member.number} were infinite after epoch {run.epoch}; lower the learning rate.")


def _decide_second(run: Run, second: Second, loss: float | None) -> None:
    """The same in a second phase, of one member: what it comes to takes the place of the first phase's weights at its end alone."""
    member = run.only
    member.second = replace(second, loss=loss)
    reason = second.ends(run.step, loss)
    if reason is not None and not run.finite(0):
        reason = "diverged"
    elif reason is not None:
        run.keep_best(0)
    member.reason = reason
