"""Adversarial training: part of the loss is taken at inputs moved against the network."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.tricks.choices import tagged
from service.tricks.norms import NORMS, NormName
from service.values import Value


class FGSMTraining(Value):
    """(1 - weight) J(x) + weight J(x_adv), x_adv one FGSM step away (Goodfellow et al. 2015, section 6).

    No gradient flows through x_adv. The perturbation is not clipped to the data's bounds, as in the paper.
    """

    method: Literal["fgsm"] = "fgsm"
    """FGSM."""
    norm: NormName = "linf"
    """In which the perturbation is measured."""
    epsilon: Annotated[float, Field(ge=0, le=1e30, examples=[1.0])]
    """Its size, in the inputs' own unit."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of the adversarial loss."""

    def perturb(self, x: Tensor, loss_of: Callable[[Tensor], Tensor], movable: Tensor | None = None) -> Tensor:
        """Rows x [N, ...] moved by epsilon along the direction that raises `loss_of` most; entries not `movable` stay."""
        leaf = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(loss_of(leaf), leaf)
        slope = slope if movable is None else slope * movable
        return (x + self.epsilon * NORMS[self.norm].direction(slope)).detach()


AdversarialTraining = Annotated[FGSMTraining, tagged("method", "fgsm")]
