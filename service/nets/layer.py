"""What every named layer says of itself: what it makes of a shape, how many weights it has, and what computes it.

Shapes are those of one row with channels last, as in data: features [F], sequences [T, C], images [H, W, C]. What layers
compute has channels first: features [.., N, F] and [.., N, C, *S].
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from service.errors import Conflict
from service.nets.convolution import Start
from service.onnx.graph import Graph
from service.tricks.choices import refuse
from service.tricks.dropout import Gate, Site
from service.values import Value

Shape = tuple[int, ...]
MOST_NUMBERS = 2**31
"""That a layer may give for one row."""
_NAME = re.compile(r"(?!head\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise refuse("invalid-name", "names of layers match [A-Za-z0-9_][A-Za-z0-9_.-]{0,63} and do not start with head.")
    return value


LayerName = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})]


class Unfit(Exception):
    """What comes to a layer does not fit it; `pointer` is within the layer."""

    def __init__(self, message: str, pointer: str = "", *, code: str = "inconsistent-spec") -> None:
        super().__init__(message)
        self.pointer, self.code = pointer, code


class Run(NamedTuple):
    """One pass through the layers: its gate, and the switches of the poolings so far that are unpooled later."""

    gate: Gate
    switches: list[Tensor]


class Writing(NamedTuple):
    """A chain of steps while it is written as ONNX."""

    graph: Graph
    kept: list[str]
    """The switches of the poolings so far that are unpooled later, and the shapes of what those took."""
    before: Mapping["Step", Shape]
    """What comes to each step."""


class Step(nn.Module):
    """What computes a layer."""

    sort: str = ""
    """Its layer's type, where the step is one of a named layer."""
    learns = False
    """Whether it has parameters of its own."""
    site: Site | None = None
    """Where its units can be dropped or looked at."""

    def forward(self, x: Tensor, run: Run) -> Tensor:
        """What the layer gives, of what the one before it gave."""
        raise NotImplementedError

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        """The ONNX operators of `forward`, weight-scaled, on what has that shape; raises Conflict where there are none."""
        raise Conflict("not-exportable", f"This release does not write layers of the kind {self.sort} as ONNX.")


class Placed(NamedTuple):
    """A layer in its place: the shapes of what comes and of what it gives."""

    layer: "Layer"
    before: Shape
    after: Shape


class Saved(NamedTuple):
    """What autograd keeps of a layer's pass of one row for the way back."""

    before: bool = False
    """What comes."""
    after: bool = False
    """What it gives."""
    besides: int = 0
    """Numbers of neither, such as of masks and switches."""
    same: bool = False
    """Whether what it gives is the memory of what comes."""


Earlier = dict[str, Placed]
"""The layers that are passed before, by name."""


class Making(NamedTuple):
    """What steps are made with: the layers in their places, how weights begin, and the steps so far by name."""

    placed: Earlier
    how: str
    generator: torch.Generator | None
    unpooled: tuple[str, ...]
    """Poolings that are unpooled later, in their order."""
    steps: dict[str, Step]

    def made(self, layer: "Layer") -> Step:
        """A layer's step, made after those before it."""
        step = self.steps[layer.label] = layer.step(self.placed[layer.label], self)
        return step

    def start(self, shape: Shape) -> Start:
        """How the weights of a layer over such rows begin."""
        return Start(len(shape) - 1, self.how, self.generator)


class Layer(Value):
    """A named layer: its fields, and what they come to once it is known what comes."""

    type: str
    name: LayerName | None = None
    """What regularizers, ties and reports call it; null: its type and its number among those of its type, `linear.0`."""

    @property
    def label(self) -> str:
        """Its name, which a whole network always has put in."""
        return self.name or self.type

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        """The shape of what it gives; raises Unfit."""
        return before

    def weights(self, before: Shape) -> int:
        """How many weights it has for what comes."""
        return 0

    def products(self, placed: Placed, earlier: Earlier) -> int:
        """Multiplications by weights of a pass of one row."""
        return self.weights(placed.before)

    def repeated(self, placed: Placed, earlier: Earlier) -> int:
        """How many more weights it would have, were none used at several places."""
        return 0

    def saved(self, placed: Placed, earlier: Earlier) -> Saved:
        """What is kept of its pass; of what has a slope everywhere the same, nothing."""
        return Saved()

    def step(self, placed: Placed, making: Making) -> Step:
        """What computes it."""
        raise NotImplementedError


def shown(shape: Shape) -> str:
    """A shape in words."""
    return str(list(shape))


def flat(before: Shape) -> None:
    """Raises Unfit for anything but features [F]."""
    if len(before) != 1:
        raise Unfit(f"it takes features [F], not {shown(before)}; flatten makes them [{math.prod(before)}]")


def channelled(before: Shape) -> None:
    """Raises Unfit for anything but features, sequences and images."""
    if not 1 <= len(before) <= 3:
        raise Unfit(f"it takes [F], [T, C] or [H, W, C], not {shown(before)}; reshape or flatten it")


def spatial(before: Shape) -> None:
    """Raises Unfit for anything but sequences and images."""
    if len(before) not in (2, 3):
        raise Unfit(f"it takes sequences [T, C] and images [H, W, C], not {shown(before)}")


def channels_first(x: Tensor, shape: Shape) -> Tensor:
    """Rows [.., N, *shape] as layers compute them; those of more axes as they are."""
    return x.movedim(-1, -len(shape)) if len(shape) in (2, 3) else x


def channels_last(x: Tensor, shape: Shape) -> Tensor:
    """What `channels_first` was made of."""
    return x.movedim(-len(shape), -1) if len(shape) in (2, 3) else x


def exported_reshape(graph: Graph, x: str, before: Shape, after: Shape) -> str:
    """The operators of a change of shape, row-major with channels last on both sides."""
    if len(before) in (2, 3):
        x = graph.add("Transpose", x, perm=(0, *range(2, len(before) + 1), 1))
    x = graph.reshaped(x, *after)
    return graph.add("Transpose", x, perm=(0, len(after), *range(1, len(after)))) if len(after) in (2, 3) else x
