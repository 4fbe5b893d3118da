"""The list of named layers: its union, bridges around some of them, and what a list makes of a shape."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from service.nets.layer import MOST_NUMBERS, Earlier, Layer, Making, Placed, Run, Shape, Step, Unfit, Writing, shown
from service.nets.norm_layers import BatchNormLayer, LayerNormLayer
from service.nets.plain_layers import ActivationLayer, DropoutLayer, FlattenLayer, ReshapeLayer
from service.nets.pooling_layers import AveragePoolLayer, MaxPoolLayer, Pooling, UnpoolLayer
from service.nets.weighted_layers import ConvolutionLayer, LinearLayer, ShareLayer, TransposedConvolutionLayer, Windowed
from service.tricks.choices import AtMost, refuse
from service.values import ITEMS


class ResidualLayer(Layer):
    """A bridge around layers: y = x + F(x), or S(x) + F(x) where the shape changes (He et al. 2016, "Deep residual learning")."""

    type: Literal["residual"] = "residual"
    """Bridged layers."""
    layers: Annotated[tuple["NamedLayer", ...], ITEMS, AtMost(256), Field(examples=[[{"type": "activation"}]])]
    """F: the layers that are bridged."""
    shortcut: Annotated[tuple["NamedLayer", ...], ITEMS, AtMost(256)] = ()
    """S: the layers of the bridge; none makes it the identity."""

    def after(self, before: Shape, earlier: Earlier) -> Shape:
        inner = passed(self.layers, before, earlier, "/layers")
        around = passed(self.shortcut, before, earlier, "/shortcut")
        if inner != around:
            raise Unfit(f"its layers give {shown(inner)}, and what they are added to is {shown(around)}")
        return inner

    def step(self, placed: Placed, making: Making) -> Step:
        return Bridge([making.made(layer) for layer in self.layers], [making.made(layer) for layer in self.shortcut])


class Bridge(Step):
    """The step of bridged layers."""

    sort = "residual"

    def __init__(self, inner: Sequence[Step], shortcut: Sequence[Step]) -> None:
        super().__init__()
        self.inner, self.shortcut = nn.ModuleList(inner), nn.ModuleList(shortcut)

    def forward(self, x: Tensor, run: Run) -> Tensor:
        found, around = x, x
        for step in self.inner:
            found = step(found, run)
        for step in self.shortcut:
            around = step(around, run)
        return around + found

    def exported(self, x: str, before: Shape, writing: Writing) -> str:
        found = exported_steps(self.inner, x, writing)
        return writing.graph.add("Add", exported_steps(self.shortcut, x, writing), found)


def exported_steps(steps: Iterable[nn.Module], x: str, writing: Writing) -> str:
    """The operators of steps one after the other."""
    for step in steps:
        if isinstance(step, Step):
            x = step.exported(x, writing.before[step], writing)
    return x


NamedLayer = Annotated[
    LinearLayer
    | ConvolutionLayer
    | TransposedConvolutionLayer
    | MaxPoolLayer
    | AveragePoolLayer
    | UnpoolLayer
    | BatchNormLayer
    | LayerNormLayer
    | ActivationLayer
    | DropoutLayer
    | FlattenLayer
    | ReshapeLayer
    | ResidualLayer
    | ShareLayer,
    Field(discriminator="type"),
]
ResidualLayer.model_rebuild()
Layers = tuple[NamedLayer, ...]
MOST_LAYERS = 1024
"""Of one network, those inside bridges included."""
CODE = "code"
"""The layer of this name gives what heads read; what follows leads back to the inputs."""
Kind = TypeVar("Kind", bound=Layer)


def passed(layers: Layers, before: Shape, placed: Earlier, pointer: str) -> Shape:
    """The shape of what layers give, each put among those that are `placed`; raises Unfit with the place of the first that does not fit."""
    for i, layer in enumerate(layers):
        try:
            after = layer.after(before, placed)
            _bounded(after)
        except Unfit as unfit:
            raise Unfit(str(unfit), f"{pointer}/{i}{unfit.pointer}", code=unfit.code) from unfit
        placed[layer.label] = Placed(layer, before, after)
        before = after
    return before


def _bounded(after: Shape) -> None:
    if math.prod(after) > MOST_NUMBERS:
        raise Unfit(f"it gives {shown(after)}, more than {MOST_NUMBERS} numbers for one row", code="cost-limit")


def count(raw: Any) -> int:
    """How many layers were sent, those inside bridges included."""
    if not isinstance(raw, list | tuple):
        return 0
    inner = (layer[part] for layer in raw if isinstance(layer, Mapping) for part in ("layers", "shortcut") if part in layer)
    return len(raw) + sum(map(count, inner))


def christened(raw: Any, counts: dict[str, int] | None = None) -> Any:
    """Layers as they were sent, with a name for each that has none: its type and its number among those of its type."""
    counts = {} if counts is None else counts
    if not isinstance(raw, list | tuple):
        return raw
    return [_christened(layer, counts) if isinstance(layer, Mapping) else layer for layer in raw]


def _christened(layer: Mapping[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    kind = layer.get("type")
    found = dict(layer)
    if isinstance(kind, str):
        number = counts[kind] = counts.get(kind, -1) + 1
        if layer.get("name") is None:
            found["name"] = f"{kind}.{number}"
    return found | {part: christened(layer[part], counts) for part in ("layers", "shortcut") if part in layer}


def every(layers: Layers, pointer: str = "/layers") -> Iterator[tuple[str, Layer]]:
    """All layers with their places, in the order in which they are passed; a bridge after what it bridges."""
    for i, layer in enumerate(layers):
        where = f"{pointer}/{i}"
        if isinstance(layer, ResidualLayer):
            yield from every(layer.layers, f"{where}/layers")
            yield from every(layer.shortcut, f"{where}/shortcut")
        yield where, layer


def of_kind(layers: Layers, kind: type[Kind]) -> list[Kind]:
    """The layers of a kind, in the order in which they are passed."""
    return [layer for _, layer in every(layers) if isinstance(layer, kind)]


def check(layers: Layers) -> None:
    """Raises a refusal where a name is another layer's too or cannot be, or where a layer refers to none that is passed before it."""
    seen: dict[str, Layer] = {}
    for where, layer in every(layers):
        if layer.label in seen:
            raise refuse("inconsistent-spec", f"{layer.label!r} is another layer's name too", pointer=f"{where}/name")
        if layer.label == CODE and where.count("/") > 2:
            raise refuse("inconsistent-spec", f"the layer called {CODE} cannot be a bridged one", pointer=f"{where}/name")
        if isinstance(layer, UnpoolLayer):
            _refers(layer.of, {name for name, each in seen.items() if isinstance(each, Pooling)}, "pooling", f"{where}/of")
        if isinstance(layer, ShareLayer):
            weighted = {name for name, each in seen.items() if isinstance(each, LinearLayer | Windowed)}
            _refers(layer.as_, weighted, "linear layer or convolution", f"{where}/as")
        seen[layer.label] = layer


def _refers(name: str, known: set[str], what: str, where: str) -> None:
    if name not in known:
        said = f"; there are {', '.join(sorted(known))}" if known else ""
        raise refuse("inconsistent-spec", f"no {what} before it is called {name!r}{said}", pointer=where)
