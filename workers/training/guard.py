"""What `fast` adversarial training remembers of a member, so that it can go back."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

GOOD = "best-guarded."
"""What the names of the weights to go back to begin with in a checkpoint; nobody writes to what begins with `best` again."""


@dataclass
class Guard:
    """The share of the step that is left, and the epoch that resisted PGD best so far: its scores, weights and moments."""

    share: float = 1.0
    epoch: int = 0
    fgsm: float = 0.0
    pgd: float = 0.0
    rolled_back: list[dict[str, Any]] = field(default_factory=list)
    """What happened at each roll-back, for the report."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Weights and statistics by name, and the optimizer's moments by `<number of the parameter>/<name>`."""

    def overfits(self, fgsm: float, pgd: float, fall: float) -> bool:
        """Whether the score under PGD fell by more than `fall` since the good epoch, and by that much more than under one step."""
        return self.epoch > 0 and self.pgd - pgd > fall and (fgsm - pgd) - (self.fgsm - self.pgd) > fall

    def back_in(self, epoch: int) -> bool:
        """Whether that epoch ended with a roll-back, so that what was measured in it is of weights that are gone."""
        return bool(self.rolled_back) and self.rolled_back[-1]["epoch"] == epoch

    def capture(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {name: value for name, value in vars(self).items() if name != "tensors"}
