"""How far what a network says of one input lies from what it says of another."""

import torch
from torch import Tensor

from service.tricks.multitask import Target


def divergence(target: Target, raw: Tensor, other: Tensor, *, width: int = 1) -> Tensor:
    """KL(p || q) per row [.., N] in nats, p and q being what raw outputs and other ones [.., N, outputs] say.

    Of Gaussians, 1/2 (log(v_q / v_p) + (v_p + (m_p - m_q)^2) / v_q - 1), the mean over the D outputs, as in the loss. A head
    that says means alone stands for Gaussians of variance 1 in normalized units, 1/2 (m_p - m_q)^2; with quantiles, `width` is D.
    """
    zeros, ones = raw.new_zeros(width), raw.new_ones(width)
    p, q = target.read(raw, zeros, ones), target.read(other, zeros, ones)
    if p.logits is not None and q.logits is not None:
        log_p, log_q = p.logits.log_softmax(-1), q.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if p.mean is None or q.mean is None:
        raise TypeError("a head says classes or numbers")
    squares = (p.mean - q.mean).square()
    if p.variance is None or q.variance is None:
        return 0.5 * squares.mean(-1)
    return 0.5 * (q.variance.log() - p.variance.log() + (p.variance + squares) / q.variance - 1).mean(-1)


def speaks(target: Target) -> bool:
    """Whether a head says a distribution, not only its mean."""
    said = target.read(torch.zeros(1, target.outputs(2)), torch.zeros(2), torch.ones(2))
    return said.logits is not None or said.variance is not None
