"""The weighted sum of the targets' mean losses; the penalties beside it are in `workers.training.penalties`."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from service.tricks.multitask import Target, mean_loss, weighted

Labels = dict[str, Tensor]
WEIGHTS = ""
"""Where labels have what each row counts in the loss, if rows count differently: no target has this name."""


class DataLoss:
    """Mean loss over the rows with a label, summed over the targets by weight; of a stack, each member's.

    `learned` has the log s^2 of targets whose weight is learned, which move with every step.
    """

    def __init__(self, targets: Sequence[Target], labels: Labels, learned: Mapping[str, Tensor] | None = None) -> None:
        self.targets = targets
        self.learned = learned or {}
        self.gaps = {target.name: bool(target.missing(labels[target.name]).any()) for target in targets}

    def __call__(self, raw: dict[str, Tensor], labels: Labels) -> Tensor:
        """The loss [], or [K] of raw outputs [K, B, ..]; the masked form is kept for targets that do have gaps."""
        total: Tensor | None = None
        weights = labels.get(WEIGHTS)
        for target in self.targets:
            outputs, wanted = raw[target.name], labels[target.name]
            masked = weights is not None or self.gaps[target.name]
            loss = mean_loss(target, outputs, wanted, weights) if masked else target.loss_of(outputs, wanted)
            loss = weighted(target, loss, self.learned.get(target.name))
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("a job has targets")
        return total
