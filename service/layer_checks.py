"""What a spec says of layers, its own and those of stored models: names, shapes, and what cannot go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from service.errors import Flaw
from service.nets import forms
from service.nets.network import Network, weights_of
from service.nets.reach import learning
from service.spec import TrainSpec
from service.tricks.choices import matching
from service.tricks.penalties import Regularizer
from service.tricks.sparsity import L0
from service.tricks.tying import Share, StoredLayer, Tie

Flaws = Iterator[Flaw]
Shapes = dict[str, tuple[int, ...]]
CODE = "inconsistent-spec"


class Stored(NamedTuple):
    """A stored model that a spec refers to: its id, and for each member the shapes of each layer's tensors."""

    id: str
    members: tuple[dict[str, Shapes], ...]


def shapes_of(network: Network) -> dict[str, Shapes]:
    """The shapes of each layer's tensors, running statistics among them, but for gates."""
    return {
        name: {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items() if not key.endswith("log_alpha")}
        for name, layer in network.layers().items()
    }


class Layers:
    """The checks of one spec against the layers of its network, built without tricks, and of the stored models."""

    def __init__(self, spec: TrainSpec, network: Network, stored: Mapping[str, Stored]) -> None:
        self._spec, self._network, self._stored = spec, network, stored
        self._names, self._shapes = list(network.layers()), shapes_of(network)
        init = spec.init
        self._frozen = set(matching(init.freeze, self._names)) if init is not None else set[str]()
        self._shared = [set(penalty.over(self._names)) for penalty in spec.regularizers if isinstance(penalty, Share)]

    def flaws(self) -> Flaws:
        """Everything that is wrong."""
        yield from self._regularizers()
        yield from self._init()

    def _regularizers(self) -> Flaws:
        covered: dict[str, set[str]] = {}
        for i, penalty in enumerate(self._spec.regularizers):
            where, missing = f"/regularizers/{i}", False
            for place, pattern in penalty.named():
                if not matching([pattern], self._names):
                    missing = True
                    yield self._no_layer(where + place, pattern)
            chosen = set(penalty.over(self._names))
            if not chosen and not missing:
                yield Flaw(where, CODE, f"it acts on no layer; there are {', '.join(self._names)}")
            elif chosen and not self._learns(penalty):
                yield self._idle(penalty, where, chosen)
            twice = chosen & covered.setdefault(penalty.type, set())
            if twice:
                yield Flaw(where, CODE, f"two of type {penalty.type} on {', '.join(sorted(twice))}")
            covered[penalty.type] |= chosen
            if not missing:
                yield from self._own(penalty, where, chosen)

    def _idle(self, penalty: Regularizer, where: str, chosen: set[str]) -> Flaw:
        """Why a penalty has nothing to act on."""
        said = ", ".join(sorted(chosen))
        if chosen & self._frozen or penalty.parameters == "all":
            return Flaw(where, CODE, f"it acts on {said}, which do not learn")
        shared = self._network.saved > 0
        other = "name the layer whose weights it uses, or " if shared else ""
        message = f"it acts on weights, and {said} learns none of its own; {other}parameters: all takes gains and biases"
        return Flaw(f"{where}/layers", CODE, message)

    def _learns(self, penalty: Regularizer) -> bool:
        """Whether anything that it acts on learns: layers may be frozen, or have another's weights."""
        layers = learning(penalty, self._names, list(self._frozen))
        return bool(weights_of(self._network, layers, everything=penalty.parameters == "all"))

    def _own(self, penalty: Regularizer, where: str, chosen: set[str]) -> Flaws:
        """What a kind has beside what all have."""
        if isinstance(penalty, Tie):
            yield from self._tie(penalty, where, chosen)
        elif isinstance(penalty, Share):
            yield from self._share(penalty, where)
        elif isinstance(penalty, L0):
            yield from self._l0(penalty, where, chosen)

    def _l0(self, penalty: L0, where: str, chosen: set[str]) -> Flaws:
        for name in self._names:
            if name not in chosen:
                continue
            weights = sum(weight.numel() for weight in weights_of(self._network, [name], everything=False))
            if not weights:  # a norm's gains are not its business
                continue
            if isinstance(penalty.keep, int) and penalty.keep > weights:
                yield Flaw(f"{where}/keep", CODE, f"{name} has {weights} weights")
                return
            if penalty.gated and not forms.gateable(self._network.layers()[name]):
                yield Flaw(f"{where}/layers", CODE, f"{name} is no linear layer, whose inputs could have gates")
                return
            if penalty.gated and forms.mirrored(self._network):
                yield Flaw(where, CODE, "the network's decoder is tied to its encoder, whose inputs cannot have gates")
                return
            if penalty.gated and (name in self._frozen or any(name in group for group in self._shared)):
                yield Flaw(where, CODE, f"{name} is {'frozen' if name in self._frozen else 'shared'}: it cannot have gates of its own")
                return

    def _tie(self, penalty: Tie, where: str, chosen: set[str]) -> Flaws:
        if any(len(chosen) == 2 and chosen <= group for group in self._shared):
            yield Flaw(f"{where}/between", CODE, "the two are one layer already")
        first, *firsts = self._sides(penalty, penalty.between[0])
        for i, side in enumerate(penalty.between):
            if isinstance(side, StoredLayer) and not all(side.layer in member for member in self._members(side)):
                names = ", ".join(self._members(side)[0])
                yield Flaw(f"{where}/between/{i}/layer", CODE, f"the stored model has no layer {side.layer!r}; there are {names}")
                return
        for second in self._sides(penalty, penalty.between[1]):
            for one in (first, *firsts):
                turned = {key: shape[::-1] for key, shape in second.items()} if penalty.transposed else second
                if sorted(one.values()) != sorted(turned.values()) or not one:
                    said = f"{_said(one)} and {_said(turned)}{', transposed,' if penalty.transposed else ''}"
                    yield Flaw(f"{where}/between", CODE, f"{said} are not of one shape")
                    return

    def _sides(self, penalty: Tie, side: str | StoredLayer) -> list[Shapes]:
        """The shapes of a side's parameters, in each member of a stored model."""
        layers = [self._shapes[side]] if isinstance(side, str) else [member.get(side.layer, {}) for member in self._members(side)]
        return [_parameters(layer, everything=penalty.parameters == "all") for layer in layers]

    def _members(self, side: StoredLayer) -> tuple[dict[str, Shapes], ...]:
        return self._stored[side.model].members

    def _share(self, penalty: Share, where: str) -> Flaws:
        layers = penalty.over(self._names)
        if len(layers) < 2:
            yield Flaw(f"{where}/layers", CODE, "sharing takes two layers at least")
        odd = next((name for name in layers if not forms.shareable(self._network.layers()[name])), None)
        if odd is not None:
            yield Flaw(f"{where}/layers", CODE, f"{odd} is neither linear nor a convolution")
            return
        if 0 < len(self._frozen & set(layers)) < len(layers):
            yield Flaw(f"{where}/layers", CODE, "some of them are frozen and some are not")
        shapes = [_parameters(self._shapes[name], everything=penalty.parameters == "all") for name in layers]
        for name, own in zip(layers, shapes, strict=True):
            if own != shapes[0] or not own:
                yield Flaw(f"{where}/layers", CODE, f"{layers[0]} is {_said(shapes[0])} and {name} is {_said(own)}")
                return

    def _init(self) -> Flaws:
        init = self._spec.init
        if init is None:
            return
        for field, patterns in (("layers", init.layers or ()), ("freeze", init.freeze)):
            for i, pattern in enumerate(patterns):
                if not matching([pattern], self._names):
                    yield self._no_layer(f"/init/{field}/{i}", pattern)
        taken = matching(init.layers, self._names)
        if self._frozen - set(taken):
            yield Flaw("/init/freeze", CODE, f"{', '.join(sorted(self._frozen - set(taken)))}: what is frozen has to be taken over")
        if self._frozen >= set(self._names):
            yield Flaw("/init/freeze", CODE, "nothing is left to learn")
        where = "/init/layers" if init.layers is not None else "/init/model"
        for name in taken:
            for member in self._stored[init.model].members:
                if member.get(name) != self._shapes[name]:
                    has = _said(member[name]) if name in member else f"not among {', '.join(member)}"
                    yield Flaw(where, CODE, f"{name} is {_said(self._shapes[name])} here, and in the stored model {has}")
                    break

    def _no_layer(self, pointer: str, pattern: str) -> Flaw:
        return Flaw(pointer, CODE, f"no layer {pattern!r}; there are {', '.join(self._names)}")


def _parameters(shapes: Shapes, *, everything: bool) -> Shapes:
    """Of a layer's tensors the weights, or all parameters."""
    return {key: shape for key, shape in shapes.items() if len(shape) >= 2 or (everything and "running" not in key)}


def _said(shapes: Shapes) -> str:
    """The shapes in words, weights first."""
    return ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes.values(), key=len, reverse=True)) or "without such parameters"


def referred(spec: TrainSpec) -> Sequence[tuple[str, str]]:
    """What a spec refers to: pointers, and the stored models that they name."""
    found = [("/init/model", spec.init.model)] if spec.init is not None else []
    for i, penalty in enumerate(spec.regularizers):
        for j, side in enumerate(penalty.between if isinstance(penalty, Tie) else ()):
            if isinstance(side, StoredLayer):
                found.append((f"/regularizers/{i}/between/{j}/model", side.model))
    return found


def with_ids(spec: TrainSpec, ids: Mapping[str, str]) -> TrainSpec:
    """The spec with the ids of the models that it refers to."""
    init = spec.init.model_copy(update={"model": ids[spec.init.model]}) if spec.init is not None else None
    regularizers = tuple(
        penalty.model_copy(update={"between": tuple(_with_id(side, ids) for side in penalty.between)})
        if isinstance(penalty, Tie)
        else penalty
        for penalty in spec.regularizers
    )
    return spec.model_copy(update={"init": init, "regularizers": regularizers})


def _with_id(side: str | StoredLayer, ids: Mapping[str, str]) -> str | StoredLayer:
    return side.model_copy(update={"model": ids[side.model]}) if isinstance(side, StoredLayer) else side
