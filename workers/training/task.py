"""What does not change while a run's members train: data, objective, schedule, rules."""

from collections.abc import Callable

import numpy as np
import torch

from service.inference.asking import quiet
from service.inference.augmenting import augmented
from service.inference.material import Material
from service.nets.base import BatchNorm
from service.tricks.dropout import SCALED
from service.tricks.optimization import Constant
from workers.training.batches import Batches, batch_rows
from workers.training.evaluation import Evaluation
from workers.training.objective import WEIGHTS, DataLoss, Penalties
from workers.training.own_penalties import OwnPenalties
from workers.training.run import Run


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
        labels = material.labels if material.weights is None else {**material.labels, WEIGHTS: material.weights}
        self.batches = Batches(
            material.inputs, labels, rows, size=batch_rows(material), device=device, mirror=material.mirror if material.mirrored else None
        )
        self.augmented = augmented(material, [member.number for member in run.members]) if spec.augmentation else None
        self.loss = DataLoss(material.targets, material.labels, run.network.log_variances)
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
