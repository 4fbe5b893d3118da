"""Attacks: perturbations within a ball that change a prediction, in the inputs' own units, and everyday corruption beside them."""

from typing import Annotated, Any, get_args

from pydantic import Field

from service.tricks.apgd import APGD
from service.tricks.boundaries import Minimal
from service.tricks.corruption import Blur, Brightness, Contrast, Corruption, Missing, Occlusion, Shift
from service.tricks.deepfool import DeepFool
from service.tricks.fab import FAB
from service.tricks.gradient_attacks import FGSM, PGD
from service.tricks.ladder import Ladder
from service.tricks.noise import GaussianNoise, RandomSign, UniformNoise
from service.tricks.perturbation import Attacked, Box, Epsilon, LossOf, Perturbation, gradient, vanished
from service.tricks.square import Square

__all__ = [
    "APGD", "FAB", "FGSM", "PGD", "AnyAttack", "Attack", "Attacked", "Box", "Corruption", "DeepFool", "Epsilon", "GaussianNoise",
    "Ladder", "LossOf", "Minimal", "Perturbation", "RandomSign", "Square", "UniformNoise", "gradient", "smallest", "vanished",
]  # fmt: skip

Attack = Annotated[
    GaussianNoise | UniformNoise | RandomSign | FGSM | PGD | APGD | DeepFool | FAB | Square | Ladder
    | Blur | Contrast | Brightness | Shift | Occlusion | Missing,
    Field(discriminator="type"),
]  # fmt: skip
AnyAttack = Perturbation | Corruption
"""What those that make attacks take: any kind."""


def smallest(kind: Any) -> dict[str, float]:
    """The field that sizes attacks of that type, at its smallest."""
    names = {each.model_fields["type"].default for each in get_args(get_args(Attack)[0]) if issubclass(each, Corruption)}
    return {"severity": 1} if isinstance(kind, str) and kind in names else {"epsilon": 0.0}
