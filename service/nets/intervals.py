"""Interval arithmetic: boxes of features that go through the layers of any network as tensors do (Gowal et al. 2018).

A box has a center and a radius. A linear map W takes them to W c + b and |W| r, a monotone function takes the box's ends; each
output's interval holds whatever the inputs' box holds, up to rounding, and no less of it where only one layer is gone through.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from service.nets.norm_bounds import normalized
from service.nets.switches import Switches, switches_of

RECTANGULAR = {
    "flatten", "unflatten", "view", "expand", "movedim", "narrow", "unsqueeze", "squeeze", "transpose", "contiguous", "to", "mean",
}  # fmt: skip
"""Methods of a tensor that do with center and radius what they do with the tensor: they move entries, or average them."""
DIPS: dict[Any, tuple[float, float]] = {F.gelu: (-0.7517915, -0.1699713), F.silu: (-1.2784645, -0.2784646)}
"""Functions that fall up to a point and rise from it: that point, and a number just below the value there."""
MONOTONE: set[Any] = {
    F.relu, F.leaky_relu, F.elu, torch.tanh, torch.sigmoid, Tensor.tanh, F.max_pool1d, F.max_pool2d, torch.max_pool1d, torch.max_pool2d,
}  # fmt: skip
AVERAGES: set[Any] = {F.avg_pool1d, F.avg_pool2d, F.pad}
"""Functions that weigh entries by numbers of 0 and more."""
SWITCHED: set[Any] = {F.max_pool1d_with_indices, F.max_pool2d_with_indices}
"""Maxima with the places where they may be."""
PRODUCTS: set[Any] = {F.linear, F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d}
"""Functions of (x, weight, bias, …) that are linear in x."""


class Unbounded(TypeError):
    """No interval is known for an operation of the network; its text says which."""


class Interval:
    """Boxes [.., N, *shape]: `center` and `radius` >= 0 of every entry. It stands where a layer takes a tensor."""

    def __init__(self, center: Tensor, radius: Tensor) -> None:
        self.center, self.radius = center, radius

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "Interval":
        """The box between two corners."""
        return cls((low + high) / 2, (high - low) / 2)

    @property
    def low(self) -> Tensor:
        """The lower ends."""
        return self.center - self.radius

    @property
    def high(self) -> Tensor:
        """The upper ends."""
        return self.center + self.radius

    def ends(self, function: Callable[[Tensor], Tensor]) -> "Interval":
        """The box that a monotone function makes of it."""
        return Interval.between(function(self.low), function(self.high))

    def each(self, function: Callable[[Tensor], Tensor]) -> "Interval":
        """The box after what moves entries or takes averages of them."""
        return Interval(function(self.center), function(self.radius))

    # --- what layers ask of a tensor --------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The shape of the entries."""
        return self.center.shape

    @property
    def ndim(self) -> int:
        """The rank of the entries."""
        return self.center.ndim

    def __len__(self) -> int:
        return len(self.center)

    def __getattr__(self, name: str) -> Callable[..., "Interval"]:
        if name not in RECTANGULAR:
            raise Unbounded(f"no interval is known for {name}")
        return lambda *args, **kwargs: self.each(lambda part: getattr(part, name)(*args, **kwargs))

    def new_ones(self, *size: Any) -> Tensor:
        """Ones like the entries."""
        return self.center.new_ones(*size)

    def new_full(self, size: Any, value: float) -> Tensor:
        """One number like the entries."""
        return self.center.new_full(size, value)

    def view_as(self, other: "Interval") -> "Interval":
        """The same in another's shape."""
        return self.view(other.shape)

    def chunk(self, chunks: int, dim: int) -> list["Interval"]:
        """Equal parts along an axis."""
        return [Interval(*part) for part in zip(self.center.chunk(chunks, dim), self.radius.chunk(chunks, dim), strict=True)]

    def tanh(self) -> "Interval":
        """The hyperbolic tangent."""
        return self.ends(torch.tanh)

    def __getitem__(self, place: Any) -> "Interval":
        return self.each(lambda part: part[place])

    def __add__(self, other: "Interval | Tensor") -> "Interval":
        if isinstance(other, Interval):
            return Interval(self.center + other.center, self.radius + other.radius)
        return Interval(self.center + other, self.radius)

    def __sub__(self, constant: Tensor) -> "Interval":
        return Interval(self.center - constant, self.radius)

    def __mul__(self, other: "Interval | Tensor | float") -> "Interval":
        if isinstance(other, Interval):
            corners = torch.stack([one * two for one in (self.low, self.high) for two in (other.low, other.high)])
            return Interval.between(corners.amin(0), corners.amax(0))
        return Interval(self.center * other, self.radius * (other.abs() if isinstance(other, Tensor) else abs(other)))

    def __truediv__(self, constant: Tensor) -> "Interval":
        return Interval(self.center / constant, self.radius / constant.abs())

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """What torch's functions do with boxes."""
        kwargs = dict(kwargs or {})
        if function in (torch.bmm, torch.baddbmm):
            return _batched(*args)
        if function in (torch.cat, torch.stack):
            return Interval(*(function([getattr(box, part) for box in args[0]], *args[1:], **kwargs) for part in ("center", "radius")))
        box, *rest = args or (kwargs.pop("input"),)
        if function in PRODUCTS:
            return _product(function, box, *rest, **kwargs)
        if function in MONOTONE:
            return box.ends(lambda part: function(part, *rest, **kwargs))
        if function in SWITCHED:
            return _switched(function, box, *rest, **kwargs)
        if function in AVERAGES:
            return box.each(lambda part: function(part, *rest, **kwargs))
        if function in DIPS:
            return _dipped(function, box)
        if function is F.batch_norm:
            return _normalized(box, *rest, **kwargs)
        if function is F.layer_norm:
            return _row_normalized(box, *rest, **kwargs)
        raise Unbounded(f"no interval is known for {getattr(function, '__name__', function)}")


def _product(function: Any, box: Interval, weight: Tensor, bias: Tensor | None = None, *rest: Any, **kwargs: Any) -> Interval:
    """W c + b and |W| r."""
    return Interval(function(box.center, weight, bias, *rest, **kwargs), function(box.radius, weight.abs(), None, *rest, **kwargs))


def _batched(*factors: Any) -> Interval:
    """The same of products over a leading axis, with a bias in front where there is one."""
    *bias, box, weight = factors
    center = torch.baddbmm(bias[0], box.center, weight) if bias else torch.bmm(box.center, weight)
    return Interval(center, torch.bmm(box.radius, weight.abs()))


def _dipped(function: Callable[[Tensor], Tensor], box: Interval) -> Interval:
    """Of a function with one minimum: the larger of the ends, and the minimum where the box holds it."""
    place, least = DIPS[function]
    ends = function(box.low), function(box.high)
    inside = (box.low <= place) & (box.high >= place)
    low = torch.where(inside, torch.full_like(box.center, least), torch.minimum(*ends))
    return Interval.between(low, torch.maximum(*ends))


def _normalized(box: Interval, mean: Tensor, variance: Tensor, *, training: bool, weight: Tensor, bias: Tensor, **rest: Any) -> Interval:
    """Batch norm with its running statistics, of which each feature is one linear function."""
    if training:
        raise Unbounded("batch norm of a batch is no function of a row")
    center = F.batch_norm(box.center, mean, variance, weight, bias, **rest)
    return Interval(center, F.batch_norm(box.radius, torch.zeros_like(mean), variance, weight.abs(), None, **rest))


def _row_normalized(box: Interval, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Interval:
    """Layer norm over the last axis; of one point what it gives."""
    low, high = normalized(box.center, box.radius, eps)
    point, still = F.layer_norm(box.center, shape, eps=eps), (box.radius == 0).all(-1, keepdim=True)
    found = Interval.between(torch.where(still, point, low), torch.where(still, point, high))
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _switched(function: Any, box: Interval, extent: int, stride: int | None = None, **kwargs: Any) -> tuple[Interval, Switches]:
    """Maxima of windows, and the places where they may be."""
    low, high, places = (function(part, extent, stride, **kwargs) for part in (box.low, box.high, box.center))
    return Interval.between(low[0], high[0]), switches_of(box.low, box.high, (low[0], places[1]), extent, stride or extent)


def unpooled(box: Interval, where: Switches) -> Interval:
    """Each value at a place where its pooling may have found the maximum: it or 0, and 0 where it cannot have."""
    return Interval.between(where.placed(box.low, lambda ends: ends.clamp(max=0)), where.placed(box.high, lambda ends: ends.clamp(min=0)))
