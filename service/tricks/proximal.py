"""Proximal steps, w <- argmin_u h (u - w)^2 / 2 + penalty(u), in the geometry of an optimizer's step."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch._C._nn import softshrink  # torch.nn.functional.softshrink, which has no `out`

from service.tricks.fused import soften


class Metric:
    """The geometry of a proximal step: coordinate i moves by `length / scales[i]`."""

    def __init__(self, length: float, scales: Sequence[Tensor] = ()) -> None:
        self.length = length
        """What all coordinates have in common."""
        self._scales = scales

    @property
    def scales(self) -> Sequence[Tensor]:
        """One tensor per weight, of its shape or of rank 0; whoever asked for them may overwrite them."""
        return self._scales

    def soften(self, weights: Sequence[Tensor], l1: float, l2: float = 0.0) -> None:
        """w <- argmin_u sum h (u - w)^2 / 2 + l1 |u| + l2 u^2 = soft(h w, l1) / (h + 2 l2), with h = scale / length.

        In this form the threshold is one number, and nothing is needed beside the scales.
        """
        for weight, scale in zip(weights, self.scales, strict=True):
            weight.mul_(scale)
            softshrink(weight, self.length * l1, out=weight)  # type: ignore[call-arg]
            weight.div_(scale.add_(2 * self.length * l2) if l2 else scale)


class Scales:
    """Weights with the second moments that their scales are made of, where there are any."""

    def __init__(self, weights: Sequence[Tensor], moments: Sequence[Tensor]) -> None:
        self.weights, self._moments = weights, moments
        self._arrays: list[tuple[Any, Any]] | None = None
        pairs = list(zip(weights, moments, strict=bool(moments)))
        if all(each.device.type == "cpu" and each.is_contiguous() for pair in pairs for each in pair):
            self._arrays = [(weight.view(-1).numpy(), moment.view(-1).numpy()) for weight, moment in pairs]

    def at(self, length: float, shift: float) -> Metric:
        """The metric whose scales are sqrt(v) + shift for the present moments v."""
        return _Adaptive(length, self, shift)

    def roots(self, shift: float) -> list[Tensor]:
        """sqrt(v) + shift."""
        return [moment.sqrt().add_(shift) for moment in self._moments]

    def soften(self, shift: float, threshold: float, extra: float) -> bool:
        """All in one pass where there is a kernel for it; whether there was."""
        for weight, moment in self._arrays or ():
            soften(weight, moment, shift, threshold, extra)
        return self._arrays is not None


class _Adaptive(Metric):
    """One whose scales follow from moments."""

    def __init__(self, length: float, of: Scales, shift: float) -> None:
        super().__init__(length)
        self._of, self._shift = of, shift

    @property
    def scales(self) -> Sequence[Tensor]:
        return self._of.roots(self._shift)

    def soften(self, weights: Sequence[Tensor], l1: float, l2: float = 0.0) -> None:
        whole = weights is self._of.weights
        if not (whole and self._of.soften(self._shift, self.length * l1, 2 * self.length * l2)):
            super().soften(weights, l1, l2)
