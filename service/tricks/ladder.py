"""The ladder: from noise to the strongest attacks, each on what the ones before left standing."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.apgd import APGD
from service.tricks.gradient_attacks import FGSM, PGD
from service.tricks.noise import UniformNoise
from service.tricks.perturbation import Attacked, Box, LossOf, Perturbation, Worst
from service.tricks.square import Square

RUNGS = ("uniform_noise", "fgsm", "pgd", "apgd", "square")


class Ladder(Perturbation):
    """Noise, FGSM, PGD, APGD on the DLR ratio, Square: each on the survivors, the worst per row (after Croce and Hein 2020)."""

    type: Literal["ladder"] = "ladder"
    """All attacks in turn."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Steps of PGD and of APGD."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 1
    """Starts of both."""
    queries: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Points that Square tries."""

    @property
    def passes(self) -> int:
        return sum(rung.passes + 1 for rung in self.rungs())

    def rungs(self) -> tuple[UniformNoise | FGSM | PGD | APGD | Square, ...]:
        """The attacks, with the ladder's own ball, bounds and seed."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in Perturbation.model_fields if name != "type"}
        return (
            UniformNoise(**shared),
            FGSM(**shared),
            PGD(**shared, steps=self.steps, restarts=self.restarts),
            APGD(**shared, steps=self.steps, restarts=self.restarts),
            Square(**shared, queries=self.queries),
        )

    def __call__(self, x: Tensor, loss_of: LossOf, box: Box, numbers: Tensor | None = None) -> Attacked:
        """The first point of any rung that breaks a row, else the one with the largest margin of all rungs."""
        judge = loss_of.under("margin")
        worst, flat = Worst.of(x), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        broken_by = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        alive = (~loss_of.broken(x)).nonzero().squeeze(1)
        places = torch.arange(len(x), device=x.device) if numbers is None else numbers
        for number, rung in enumerate(self.rungs()):
            if not len(alive):
                break
            loss = loss_of.only(alive)
            found = rung(x[alive], loss, box, places[alive])
            if found.zero_gradients is not None:
                flat[alive] |= found.zero_gradients
            with torch.no_grad():
                values = judge.only(alive)(found.inputs)
            broken = loss.broken(found.inputs)
            worst.note(alive, found.inputs, values, broken)
            broken_by[alive[broken]] = number
            alive = alive[~broken]
        return Attacked(worst.inputs, flat, rungs=broken_by)
