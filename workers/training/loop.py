"""The training loop: a generator of epochs. Whoever drives it records, reports, checkpoints and stops."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from service.blocks import blocks
from service.errors import TemperError
from service.inference.asking import quiet
from service.inference.material import Material
from service.inference.quick import MEASURED, QUICK, Known, known, measured, quick_means, quick_sums
from service.nets.network import Network
from service.spec import TrainSpec
from service.tricks.dropout import SCALED, Gate, Sampled
from service.tricks.optimization import Constant
from service.tricks.stopping import Patience
from workers.training.batches import Batches
from workers.training.objective import DataLoss, Labels, Penalties
from workers.training.run import Run

EVALUATION_ROWS = 4096
"""Most validation rows of one pass: more would not stay in a processor's cache."""


class Diverged(TemperError):
    """The loss became infinite or not a number before any epoch was worth keeping."""

    status, slug, title = 422, "diverged", "Training diverged"


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number from 1, the steps so far, and what was measured, by series name."""

    member: int
    epoch: int
    step: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tick:
    """A moment inside a long epoch, for progress, orders and checkpoints; `share` of the epoch is done."""

    share: float


class Task:
    """What does not change while one member trains: data, objective, schedule, rules."""

    def __init__(self, material: Material, run: Run, device: torch.device, *, beat: Callable[[], None] = quiet) -> None:
        spec = material.spec
        rows = spec.ensemble.rows(run.member, material.parts.train, seed=spec.seed)
        size = len(rows) if spec.batch_size == "full" else min(int(spec.batch_size or 64), len(rows))
        self.spec = spec
        self.device = device
        self.beat = beat
        """Called before each block of validation rows."""
        self.batches = Batches(material.inputs, material.labels, rows, size=size, device=device)
        self.loss = DataLoss(spec.targets or (), material.labels)
        self.penalties = Penalties(spec, run.network)
        self.parameters = list(run.network.parameters())
        self.modal = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in run.network.modules())
        """Whether training and evaluation differ in more than dropout, which is an argument."""
        plain = material.encoding.plain
        self.movable = torch.cat([torch.ones(material.encoding.shape[0] - plain), torch.zeros(plain)]).to(device) if plain else None
        """Categories and indicators are not moved by adversarial training."""
        self.every = len(self.batches)
        self.scheduled = not isinstance(spec.schedule, Constant)
        self.steps = min(spec.epochs * len(self.batches), spec.max_steps or spec.epochs * len(self.batches))
        self.gate: Gate = Sampled(run.streams["masks"]) if spec.architecture.drops else SCALED
        watched = spec.monitored or "validation.loss"
        monitor = watched.removeprefix("validation.")
        self.slow = monitor if monitor.rpartition(".")[2] not in MEASURED or _density(spec, monitor) else ""
        self.curves = {"train.loss", "validation.loss", watched}
        row_bytes = 4 * sum(site.units for site in run.network.sites)
        parts = blocks(material.parts.validation, row_bytes, most=EVALUATION_ROWS)
        self.validation = [_known(spec, *material.rows(part), device) for part in parts]


def train(run: Run, task: Task, *, tick_s: float = 0.25, clock: Callable[[], float] = time.monotonic) -> Iterator[Epoch | Tick]:
    """Train until the run has a reason to end, yielding each epoch, and ticks in between when epochs are long."""
    yielded = -math.inf
    while run.reason is None:
        if not run.network.training:
            run.network.train()
        if run.order is None:
            run.order, run.position = task.batches.order(run.streams["order"]), 0
            run.sums = {name: torch.zeros((), device=task.device) for name in ("loss",)}
        for x, labels in task.batches.walk(run.order, run.position):
            loss = step(run, task, x, labels)
            run.sums["loss"].add_(loss, alpha=len(x))
            run.position += 1
            run.step += 1
            if run.step >= task.steps:
                break
            if clock() - yielded > tick_s:
                yield Tick(run.position / len(task.batches))
                yielded = clock()
                if _stopped(run):
                    return
        yield finish_epoch(run, task)
        yielded = clock()


def _stopped(run: Run) -> bool:
    """Whether whoever drives the loop has given the run a reason to end."""
    return run.reason is not None


def step(run: Run, task: Task, x: Tensor, labels: Labels) -> Tensor:
    """One optimizer step on a batch; returns the mean data loss, detached."""
    network, spec = run.network, task.spec
    if spec.augmentation or spec.adversarial_training is not None:
        x = x.to(torch.float32)
        for transform in spec.augmentation:
            x = transform(x, run.streams["augmentation"])
    loss = objective(network, task, x, labels)
    loss.backward()
    if task.scheduled:
        factor = spec.schedule.multiplier(run.step, steps_per_epoch=task.every, steps=spec.epochs * task.every)
        for group in run.optimizer.param_groups:
            group["lr"] = spec.optimizer.learning_rate * factor
    with torch.no_grad():
        task.penalties.add_gradients()
        if spec.gradient_clip is not None:
            spec.gradient_clip(task.parameters)
        run.optimizer.step()
        task.penalties.shrink(run.optimizer)
    for parameter in task.parameters:
        parameter.grad = None
    return loss.detach()


def objective(network: Network, task: Task, x: Tensor, labels: Labels) -> Tensor:
    """The data loss, part of it at adversarial inputs where the spec says so."""
    adversarial = task.spec.adversarial_training
    if adversarial is None:
        return task.loss(network(x, task.gate), labels)
    # The attack sees the network as it will be served: without dropout, with running statistics.
    if task.modal:
        network.eval()
    moved = adversarial.perturb(x, lambda rows: task.loss(network(rows, SCALED), labels), task.movable)
    if task.modal:
        network.train()
    loss = adversarial.weight * task.loss(network(moved, task.gate), labels)
    if adversarial.weight < 1:
        loss = loss + (1 - adversarial.weight) * task.loss(network(x, task.gate), labels)
    return loss


def finish_epoch(run: Run, task: Task) -> Epoch:
    """Measure, apply early stopping, and decide whether training goes on."""
    run.epoch += 1
    rows = min(run.position * task.batches.size, task.batches.rows)
    values = {"train.loss": float(run.sums["loss"]) / rows, "learning_rate": float(run.optimizer.param_groups[0]["lr"])}
    if task.penalties:
        penalties = task.penalties.values()
        values["train.objective"] = values["train.loss"] + sum(penalties.values())
        values |= {f"penalty.{name}": value for name, value in penalties.items()}
    else:
        values["train.objective"] = values["train.loss"]
    values |= {f"validation.{name}": value for name, value in evaluate(run.network, task).items()}
    run.order = None
    for name in task.curves & values.keys():
        run.history.setdefault(name, []).append(values[name])
    _decide(run, task, values)
    return Epoch(run.member, run.epoch, run.step, values)


def _decide(run: Run, task: Task, values: dict[str, float]) -> None:
    """Set the run's reason when it ends with this epoch."""
    stopping, watched = task.spec.early_stopping, task.spec.monitored
    if not math.isfinite(values["train.loss"]):
        if not run.best:
            raise Diverged(f"The loss of member {run.member} was {values['train.loss']} in epoch {run.epoch}; lower the learning rate.")
        run.reason = "diverged"
        return
    if stopping is None or watched is None:
        run.patience = Patience(epoch=run.epoch, step=run.step)
        run.keep_best()
    else:
        run.patience = stopping.observe(run.patience, values[watched], epoch=run.epoch, step=run.step)
        if run.patience.epoch == run.epoch:
            run.keep_best()
        if stopping.stops(run.patience):
            run.reason = "early_stopping"
    if run.reason is None and run.step >= task.steps:
        run.reason = "epochs" if run.epoch >= task.spec.epochs else "max_steps"
    if run.reason is not None and not run.best and watched is not None:
        raise Diverged(f"{watched} of member {run.member} was never a finite number; nothing is worth keeping.")


def _density(spec: TrainSpec, monitor: str) -> bool:
    """Whether a regression's density is monitored, which the quick metrics do not have."""
    return monitor.rpartition(".")[2] == "nll" and all(target.task == "regression" for target in spec.targets or ())


@torch.inference_mode()
def evaluate(network: Network, task: Task) -> dict[str, float]:
    """Metrics on validation, weight-scaled and without penalties; nothing where there is no such part."""
    if not task.validation:
        return {}
    if task.modal:
        network.eval()
    sums: dict[str, Tensor] = {}
    raws: list[dict[str, Tensor]] = []
    for x, truths in task.validation:
        task.beat()
        raw = network(x.to(task.device))
        if task.slow:
            raws.append({name: values.cpu() for name, values in raw.items()})
        for target, scale in zip(task.spec.targets or (), network.units, strict=True):
            for name, value in quick_sums(target, raw[target.name], truths[target.name], scale.std).items():
                key = f"{target.name}.{name}"
                sums[key] = sums[key] + value if key in sums else value
    found = _named(dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)), task)
    return found | _slow(network, task, raws) if task.slow else found


def _slow(network: Network, task: Task, raws: list[dict[str, Tensor]]) -> dict[str, float]:
    """The monitored metric, where it needs all validation rows at once."""
    targets = task.spec.targets or ()
    name, _, metric = task.slow.rpartition(".")
    target = next(target for target in targets if target.name == name or len(targets) == 1)
    scale = network.units[targets.index(target)]
    truths = [truth[target.name] for _, truth in task.validation]
    weights = [truth.weights.cpu() if truth.weights is not None else torch.ones(len(truth.labels)) for truth in truths]
    truth = Known(torch.cat([each.labels.cpu() for each in truths]), torch.cat(weights), truths[0].rows)
    found = measured(target, torch.cat([raw[target.name] for raw in raws]), truth, scale.mean.cpu(), scale.std.cpu())
    return {task.slow: found.get(metric, math.nan)}


def _named(sums: dict[str, float], task: Task) -> dict[str, float]:
    """Means of the sums; plain names for one target, for several their names in front and the weighted `loss`."""
    targets = task.spec.targets or ()
    found = {target.name: quick_means(target, {name: sums[f"{target.name}.{name}"] for name in QUICK[target.task]}) for target in targets}
    if len(targets) == 1:
        return found[targets[0].name]
    loss = sum(target.weight * found[target.name]["loss"] for target in targets)
    return {**{f"{target}.{name}": value for target, values in found.items() for name, value in values.items()}, "loss": loss}


def _known(spec: TrainSpec, x: Tensor, labels: Labels, device: torch.device) -> tuple[Tensor, dict[str, Known]]:
    """Validation rows with what their labels say, prepared once for all epochs."""
    return x, {target.name: known(target, labels[target.name].to(device)) for target in spec.targets or ()}
