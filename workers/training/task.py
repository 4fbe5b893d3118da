"""What does not change while a run's members train: data, objective, schedule, rules."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from service.inference.asking import quiet
from service.inference.augmenting import augmented
from service.inference.boxes import trained_box
from service.inference.material import Material
from service.inference.sources import constants_of
from service.nets.base import BatchNorm
from service.tricks.dropout import SCALED
from service.tricks.optimization import Constant
from service.tricks.stopping import SECOND
from workers.training.batches import Batches, batch_rows, member_rows, steps_per_epoch
from workers.training.evaluation import Evaluation
from workers.training.gating import gating_of
from workers.training.objective import WEIGHTS, DataLoss
from workers.training.overfitting import watch_of
from workers.training.penalties import Penalties
from workers.training.run import Run


class Task:
    """What does not change while a run's members train: data, objective, schedule, rules."""

    def __init__(self, material: Material, run: Run, device: torch.device, *, beat: Callable[[], None] = quiet) -> None:
        spec, second = material.spec, run.second
        chosen = [member_rows(material, member.number, validation=second is not None) for member in run.members]
        rows = chosen[0] if run.network.members is None else np.stack(chosen)
        self.material, self.spec, self.device, self.beat = material, spec, device, beat
        self.batches = _batches(material, rows, batch_rows(material, validation=second is not None), device)
        self.augmented = augmented(material, [member.number for member in run.members]) if spec.augmentation else None
        self.loss = DataLoss(material.targets, material.labels, run.network.log_variances)
        own = [spec.of(member.number) for member in run.members]
        self.rates = [each.optimizer.learning_rate for each in own]
        """The members' learning rates, before the schedule."""
        apart = run.network.members is not None and spec.ensemble.varies("learning_rate", "alpha")
        numbers = [member.number for member in run.members]
        constants = constants_of(material.sources, numbers, device, stacked=run.network.members is not None)
        self.gating = gating_of(run.network)
        """The gates of layers that have them."""
        self.penalties = Penalties(own, run.network, apart=apart, gating=self.gating, constants=constants)
        self.parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
        self.modal = self.gating is not None or any(isinstance(module, BatchNorm) for module in run.network.modules())
        """Whether training and evaluation differ in more than dropout, which is an argument."""
        self.movable = material.movable.to(device) if material.movable is not None else None
        self.box = trained_box(material.encoding, device)
        """Where bounded training lets rows go."""
        self.every = len(self.batches)
        """Steps of an epoch, by which a schedule counts."""
        self.scheduled = not isinstance(spec.schedule, Constant)
        self.steps = min(spec.epochs * self.every, spec.max_steps or spec.epochs * self.every)
        self.gate = run.gate if spec.drops else SCALED
        self.curves = {"train.loss", "validation.loss", spec.monitored or "validation.loss"}
        self.watch = watch_of(material, self.loss, device, beat)
        """What sees one-step training overfit to its step."""
        part = None
        if second is not None:
            self.steps, self.curves = second.last, {f"{SECOND}train.loss", f"{SECOND}validation.loss"}
            part = material.parts.validation if second.threshold is not None else material.parts.validation[:0]
            if not second.by_epochs:  # a step has the learning rate that it had, or would have had, in the first phase
                self.every = steps_per_epoch(material)
        self.evaluate = Evaluation(material, run.network.entries, device, beat, part=part)


def _batches(material: Material, rows: NDArray[np.int64], size: int, device: torch.device) -> Batches:
    """Batches of the members' rows, with what a row counts and labels that are inputs where the job has them."""
    labels = material.labels if material.weights is None else {**material.labels, WEIGHTS: material.weights}
    return Batches(material.inputs, labels, rows, size=size, device=device, mirror=material.mirror if material.mirrored else None)
