"""`Network` = preprocess -> trunk -> heads: raw inputs in, distributions in the user's units out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.nets import Architecture, forms
from service.nets.base import BatchNorm, LayerInfo, LayerNorm, Linear, Sharing, Transposed, exported, held
from service.nets.gates import Gated
from service.nets.layer import Step
from service.nets.sequential import Pixels
from service.nets.upsampling import Painter, TransposedConvolution
from service.nets.weighted_layers import Again
from service.onnx.graph import Graph
from service.tricks.dropout import SCALED, Gate, Site
from service.tricks.multitask import Distribution, LearnedWeight, Reconstruction, Target
from service.tricks.normalization import Normalize
from service.tricks.penalties import Regularizer


class NetworkSpec(NamedTuple):
    """What a network is built from: inputs of `shape`, each target with its classes or dimensions, and what tricks make of its layers."""

    architecture: Architecture
    shape: tuple[int, ...]
    targets: tuple[Target, ...]
    widths: tuple[int, ...]
    regularizers: tuple[Regularizer, ...] = ()
    """Those that give layers gates or make them one have an effect on what is built."""
    frozen: tuple[str, ...] = ()
    """Names or patterns of layers that do not learn."""
    reads: int | None = None
    """How many of the inputs it reads, where some were cut off; None: all, in their shape."""
    kind: str = "table"
    """Of the inputs: a table, an image or a tensor."""


class Scale(nn.Module):
    """Mean and standard deviation of a target's training rows: buffers [D], 0 and 1 for classes."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)


class Network(nn.Module):
    """One member: everything above it speaks in the inputs' and the targets' own units."""

    reads: Tensor | None
    """The numbers of the inputs that are read, flat and row-major; None: all."""

    def __init__(self, spec: NetworkSpec, preprocess: Normalize, scales: Sequence[Scale], generator: torch.Generator | None) -> None:
        super().__init__()
        self.spec = spec
        self.preprocess = preprocess
        self.scales, self._units = nn.ModuleList(scales), tuple(scales)
        self.register_buffer("reads", None if spec.reads is None else torch.zeros(spec.reads, dtype=torch.int64))
        self.trunk = spec.architecture.build(spec.shape if spec.reads is None else (spec.reads,), generator, kind=spec.kind)
        how = spec.architecture.start
        self.heads = nn.ModuleList(
            self.trunk.head(target.task, target.outputs(width), how=how, generator=generator)
            for target, width in zip(spec.targets, spec.widths, strict=True)
        )
        self.shares = nn.ModuleList(LearnedWeight() for target in spec.targets if target.weight == "learned")
        forms.form(self, self.layers(), spec.regularizers, generator)
        forms.freeze(self.layers(), spec.frozen)
        self._linear = tuple(module for module in self.modules() if isinstance(module, Linear))[:1]

    def forward(self, x: Tensor, gate: Gate = SCALED) -> dict[str, Tensor]:
        """Raw outputs by target [.., N, outputs], after `logit_scale` of logits and tanh of numbers, where asked."""
        features, kept = self.trunk.encode(self.preprocess(x) if self.spec.reads is None else self._read(x), gate)
        said: dict[str, Tensor] = {}
        for target, head, scale in zip(self.spec.targets, self.heads, self._units, strict=True):
            if isinstance(target, Reconstruction):
                said[target.name] = target.in_unit(head(self.trunk.decode(features, gate, kept)), scale.std)
            else:
                said[target.name] = self.finished(target, head(features))
        widest = max(said.values(), key=lambda raw: raw.ndim)
        # What no mask reaches is the same under all of them.
        return {name: raw if raw.ndim == widest.ndim else raw.expand(*widest.shape[:-1], -1) for name, raw in said.items()}

    def exported(self, graph: Graph, x: str) -> tuple[str, dict[str, str]]:
        """The ONNX operators of `forward`, weight-scaled, on rows x [N, ...]: features, and raw outputs by target."""
        z = self.preprocess.exported(graph, x)
        if self.reads is not None:
            z = graph.add("Gather", graph.add("Flatten", z), *held(graph, self.reads), axis=1)
        features, kept = self.trunk.exported(graph, z)
        said: dict[str, str] = {}
        for target, head, scale in zip(self.spec.targets, self.heads, self._units, strict=True):
            if isinstance(target, Reconstruction):
                raw = exported(head, graph, self.trunk.exported_decoding(graph, features, kept))
                said[target.name] = graph.add("Mul", raw, *held(graph, target.factor(scale.std)))
            else:
                said[target.name] = self._exported_end(target, graph, exported(head, graph, features))
        return features, said

    def _exported_end(self, target: Target, graph: Graph, raw: str) -> str:
        """The operators of `finished`."""
        if target.says == "classes":
            scale = self.spec.architecture.logit_factor
            return graph.add("Mul", raw, graph.real(scale)) if scale != 1.0 else raw
        return graph.add("Tanh", raw) if target.output == "tanh" else raw

    def _read(self, x: Tensor) -> Tensor:
        """The normalized inputs that are read, flat."""
        flat: Tensor = self.preprocess(x).flatten(-max(len(self.spec.shape), 1))
        return flat[..., self.reads]

    def finished(self, target: Target, raw: Tensor) -> Tensor:
        """A head's outputs after `logit_scale` or tanh."""
        if target.says == "classes":
            scale = self.spec.architecture.logit_factor
            return raw * scale if scale != 1.0 else raw
        return raw.tanh() if target.output == "tanh" else raw

    def code(self, x: Tensor) -> Tensor:
        """The features [.., N, F] of rows, weight-scaled: of an autoencoder the code."""
        features: Tensor = self.trunk(self.preprocess(x) if self.spec.reads is None else self._read(x), SCALED)
        return features

    def distributions(self, x: Tensor, gate: Gate = SCALED) -> dict[str, Distribution]:
        """What each head says, in the user's units."""
        raw = self(x, gate)
        return {t.name: t.read(raw[t.name], scale.mean, scale.std) for t, scale in zip(self.spec.targets, self.units, strict=True)}

    @property
    def units(self) -> tuple[Scale, ...]:
        """Each target's scale."""
        return self._units

    @property
    def log_variances(self) -> dict[str, Tensor]:
        """By target, log s^2 of those whose weight is learned: [], of a stack [K]."""
        names = [target.name for target in self.spec.targets if target.weight == "learned"]
        return {name: share.log_variance for name, share in zip(names, self.shares, strict=True) if isinstance(share, LearnedWeight)}

    @property
    def entries(self) -> int:
        """Numbers that a forward pass holds of one row."""
        return self.trunk.entries()

    @property
    def held(self) -> int:
        """Numbers that training holds of one row from its forward pass to its backward pass."""
        return self.trunk.held()

    @property
    def products(self) -> int:
        """Multiplications of a forward pass of one row."""
        heads = sum(p.numel() for head in self.heads for p in head.parameters() if p.ndim > 1)
        return self.trunk.products() + heads + self.saved

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where units can be dropped."""
        return self.trunk.sites

    def layers(self) -> dict[str, nn.Module]:
        """Layers with parameters by their stable names, heads last."""
        return {**self.trunk.linears(), **{f"head.{t.name}": head for t, head in zip(self.spec.targets, self.heads, strict=True)}}

    @property
    def members(self) -> int | None:
        """How many members a stack has; None for a network of one's own."""
        weight = self._linear[0].weight if self._linear else None  # without a linear layer there is nothing to be stacked
        return len(weight) if weight is not None and weight.ndim == 3 else None

    @property
    def saved(self) -> int:
        """Parameters that it would have besides, were none used twice."""
        transposed = sum(module.shared for module in self.modules() if isinstance(module, Transposed | TransposedConvolution | Again))
        again = sum(p.numel() for _, p in self.named_parameters(remove_duplicate=False)) - sum(p.numel() for p in self.parameters())
        return (transposed + again) // (self.members or 1)

    @property
    def sharing(self) -> Sharing:
        """What sharing saves; without it a convolution has a weight for each entry of its Toeplitz matrix, and its biases as they are."""
        places = self.trunk.repeated() + sum(head.repeated() for head in self.heads if isinstance(head, Painter | Pixels))
        own = sum(parameter.numel() for parameter in self.parameters()) // (self.members or 1)
        return Sharing(self.saved, own + self.saved + places, self.saved + places)

    def learned(self) -> dict[str, Tensor]:
        """Parameters and running statistics of this member by name: what distinguishes it from its siblings."""
        named = [*self.named_parameters(), *self.named_buffers()]
        return {name: tensor for name, tensor in named if not name.startswith(("preprocess.", "scales."))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the values of `learned()` of a network of the same spec."""
        self.load_state_dict(tensors, strict=False)

    def describe(self) -> tuple[LayerInfo, ...]:
        """Each named layer with its output's shape and its parameters; what layers share counts at the first of them."""
        layers = {**self.trunk.named(), **self.layers()}
        heads = {f"head.{target.name}": (_outputs(head),) for target, head in zip(self.spec.targets, self.heads, strict=True)}
        shapes = {**self.trunk.shapes(), **heads}
        counted: set[Tensor] = set()
        found = []
        for name, layer in layers.items():
            own = set(layer.parameters()) - counted
            counted |= own
            found.append(LayerInfo(name, _sort(layer), shapes[name], sum(p.numel() for p in own)))
        return tuple(found)


def stack(networks: Sequence[Network]) -> Network:
    """The members as one network, whose parameters and running statistics have them as their leading axis.

    What it computes are batched products: raw outputs [K, N, outputs] of rows [N, ...] or [K, N, ...].
    """
    first = networks[0]
    whole = Network(first.spec, first.preprocess, first.units, None)
    whole.train(first.training)
    learned = [network.learned() for network in networks]
    for name in learned[0]:
        place, _, last = name.rpartition(".")
        module, values = whole.get_submodule(place), torch.stack([each[name].detach() for each in learned])
        if last in module._parameters:
            values = nn.Parameter(values, requires_grad=learned[0][name].requires_grad)
        setattr(module, last, values)
    forms.share(whole.layers(), first.spec.regularizers)
    return whole


def stackable(network: Network) -> bool:
    """Whether `stack` can take it: all that it learns lies in layers that know of a members' axis."""
    layers = (Linear, Transposed, BatchNorm, LayerNorm, LearnedWeight)
    known = {id(tensor) for module in network.modules() if isinstance(module, layers) for tensor in _own(module)}
    return all(id(tensor) in known for tensor in network.learned().values())


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _outputs(layer: nn.Module) -> int:
    return next(m.out_features for m in layer.modules() if isinstance(m, nn.Linear | Transposed | Painter | Pixels))


SORTS: tuple[tuple[type[nn.Module], str], ...] = (
    (Transposed, "transposed"),
    (TransposedConvolution, "transposed_convolution"),
    (nn.Conv1d, "convolution"),
    (nn.Conv2d, "convolution"),
    (nn.RNNBase, "recurrent"),
)


def _sort(layer: nn.Module) -> str:
    """What a layer is: what it says itself, else the first of its modules that has a name of its own."""
    if isinstance(layer, Step):
        return layer.sort
    return next((name for module in layer.modules() for kind, name in SORTS if isinstance(module, kind)), "linear")


def is_weight(network: Network, parameter: Tensor) -> bool:
    """Whether penalties act on it by default: rank 2 and more in each member, so neither bias, gain nor gate."""
    return parameter.ndim - (network.members is not None) >= 2


def weighted(network: Network) -> list[str]:
    """The named layers that have weights of their own: those of `weights_of`, all at once."""
    layers = network.layers()
    return [name for name, layer in layers.items() if any(is_weight(network, p) for p in _weights(layer))]


def _weights(layer: nn.Module) -> list[Tensor]:
    """A layer's parameters but gates."""
    return [p for last, p in layer.named_parameters() if not last.endswith("log_alpha")]


def weights_of(network: Network, layers: Sequence[str], *, everything: bool) -> list[Tensor]:
    """The parameters of named layers, each once: their weights, or everything but gates."""
    found = network.layers()
    named = [p for name in layers for p in _weights(found[name])]
    return list(dict.fromkeys(p for p in named if everything or is_weight(network, p)))


def gates_of(network: Network, layers: Sequence[str]) -> list[Tensor]:
    """The logits of named layers' gates."""
    found = network.layers()
    return [module.log_alpha for name in layers for module in found[name].modules() if isinstance(module, Gated)]
