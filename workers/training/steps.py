"""One optimizer step: augment, attack where the spec says so, take the gradient, penalize, move."""

import torch
from torch import Tensor

from service.tricks.optimization import set_rates
from workers.training.adversary import objective
from workers.training.batches import Batch
from workers.training.run import Run
from workers.training.task import Task


def step(run: Run, task: Task, batch: Batch) -> Tensor:
    """One optimizer step on a batch; returns the mean data loss, [] or each member's [K], detached.

    Numbers below 1.2e-38 count as 0: the moments of weights that have no gradient any more fade to such, a processor takes many times
    as long for each, and beside Adam's eps none of them moves a weight.
    """
    torch.set_flush_denormal(True)
    try:
        return _step(run, task, batch)
    finally:
        torch.set_flush_denormal(False)


def _step(run: Run, task: Task, batch: Batch) -> Tensor:
    network, spec = run.network, task.spec
    x, labels = batch.x, batch.labels
    if task.augmented is not None:
        x, labels = task.augmented(x, labels, batch.rows, epoch=run.epoch)
    elif spec.adversarial_training is not None:
        x = x.to(torch.float32)
    if task.gating is not None:
        task.gating.draw(run.streams("gates"))
    loss = objective(network, task, x, labels, run.members, progress=run.step / task.steps)
    (loss if loss.ndim == 0 else loss.sum()).backward()
    if task.scheduled:
        factor = spec.schedule.multiplier(run.step, steps_per_epoch=task.every, steps=spec.epochs * task.every)
        set_rates(run.optimizer, [rate * factor for rate in task.rates])
    if run.settle is not None:
        run.settle()
        run.settle = None
    with torch.no_grad():
        if task.gating is not None:
            task.gating.add_gradients()
        task.penalties.add_gradients(run.optimizer)
        if spec.gradient_clip is not None:
            spec.gradient_clip(task.parameters, members=network.members)
        run.optimizer.step()
        task.penalties.shrink(run.optimizer, late=2 * run.step >= task.steps)
    for parameter in task.parameters:
        parameter.grad = None
    return loss.detach()
