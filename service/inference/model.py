"""A trained model: its members as networks, and all that a prediction has to know."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from service.data.encoding import Encoding
from service.nets.base import Linear
from service.nets.network import Network, NetworkSpec, Scale, stack, stackable
from service.nets.pruning import Cut, served
from service.spec import TrainSpec
from service.tricks.decisions import Rule, Threshold
from service.tricks.multitask import Target
from service.tricks.normalization import Normalize
from service.values import ITEMS, Value

FORMAT = 1
STACK_PARAMETERS = 2**24
"""Most parameters of all members that are held a second time, side by side: 64 MiB."""


class Forms:
    """Networks that are made from a model's members when they are first asked for, each once for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Network] = {}

    def get(self, name: str, make: Callable[[], Network]) -> Network:
        """The form of that name; a tensor made under inference mode could not be attacked later."""
        with self._lock:
            if name not in self._made:
                with torch.inference_mode(mode=False), torch.no_grad():
                    self._made[name] = make()
            return self._made[name]


class Settled(Value):
    """What was chosen for a target on validation rows after training, and is kept with the model."""

    threshold: float | None = None
    """The least probability of the second class, where a decision asks for it."""
    noise_std: Annotated[tuple[float, ...], ITEMS] | None = None
    """Observation noise of each number, in the target's unit."""
    errors: Annotated[tuple[float, ...], ITEMS] | None = None
    """Of a reconstruction the errors of validation rows, ascending."""


@dataclass(frozen=True)
class Model:
    """k members over one encoding; `best` is the index of the member with the lowest monitor."""

    spec: TrainSpec
    encoding: Encoding
    classes: tuple[tuple[str, ...] | None, ...]
    networks: tuple[Network, ...]
    best: int
    numbers: tuple[int, ...] = ()
    """The members' numbers in their job, of which some may have been left out; empty: all of them, from 0."""
    weights: tuple[float, ...] | None = None
    """The members' weights in an answer of all, where selection chose them."""
    settled: Mapping[str, Settled] = field(default_factory=dict)
    """By target, what was chosen on validation rows after training."""
    cut: Cut | None = None
    """What the members' layers were cut to, where closed gates were taken out."""
    _forms: Forms = field(default_factory=Forms, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """k."""
        return len(self.networks)

    @property
    def drops(self) -> bool:
        """Whether any unit was dropped in training."""
        return any(site.rate for network in self.networks for site in network.sites)

    @property
    def classifies(self) -> bool:
        """Whether any target has classes."""
        return any(target.says == "classes" for target in self.spec.targets or ())

    def decision(self, target: Target) -> Rule:
        """How a target's probabilities become a class."""
        settled = self.settled.get(target.name)
        return Threshold(threshold=settled.threshold) if settled and settled.threshold is not None else target.decision

    def noise(self, target: Target) -> Tensor | None:
        """The variance [D] of a target's observations where its head says none; None where it is not known."""
        if isinstance(target.noise_std, float):
            return torch.tensor([target.noise_std**2], dtype=torch.float64)
        settled = self.settled.get(target.name)
        return torch.tensor(settled.noise_std, dtype=torch.float64).square() if settled and settled.noise_std else None

    @cached_property
    def log_variances(self) -> dict[str, float]:
        """By target, the mean over members of the log s^2 by which its loss is weighed, where that was learned."""
        each = [network.log_variances for network in self.networks]
        return {name: sum(float(own[name]) for own in each) / len(each) for name in each[0]}

    def spec_of(self, i: int) -> TrainSpec:
        """The spec that member i of the model was trained with."""
        return self.spec.of(self.numbers[i] if self.numbers else i)

    @cached_property
    def parameters(self) -> int:
        """Of one member."""
        return sum(parameter.numel() for parameter in self.networks[0].parameters())

    @cached_property
    def stackable(self) -> bool:
        """Whether the members can be asked as one network, with memory for it."""
        return self.size > 1 and self.size * self.parameters <= STACK_PARAMETERS and stackable(self.networks[0])

    def stacked(self) -> Network:
        """All members side by side in one network, in their order."""
        return self._forms.get("stacked", lambda: _transposed(serving(stack(self.networks))))

    def precise(self, member: int) -> Network:
        """A member in float64."""
        return self._forms.get(f"precise {member}", lambda: deepcopy(self.networks[member]).double())

    def describe(self) -> dict[str, Any]:
        """`encoding.json`: with `spec.json` and `model.safetensors` all that serving needs."""
        return {
            "format": FORMAT,
            "encoding": self.encoding.dump(),
            "classes": self.classes,
            "shape": self.networks[0].spec.shape,
            "widths": self.networks[0].spec.widths,
            "members": self.size,
            "best": self.best,
            "numbers": self.numbers or tuple(range(self.size)),
            "weights": self.weights,
            **({"settled": {name: settled.dump() for name, settled in self.settled.items()}} if self.settled else {}),
            "cut": self.cut._asdict() if self.cut is not None else None,
        }

    def aliases(self) -> dict[str, str]:
        """Names that stand for tensors of other names: those of parameters that several layers share."""
        found: dict[str, str] = {}
        for i, network in enumerate(self.networks):
            first: dict[Tensor, str] = {}
            for name, tensor in network.named_parameters(prefix=f"members.{i}", remove_duplicate=False):
                if (kept := first.setdefault(tensor, name)) != name:
                    found[name] = kept
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of all members by name; normalizers are shared and stand once."""
        first = self.networks[0]
        shared = {name: tensor for name, tensor in first.state_dict().items() if name.startswith(("preprocess.", "scales."))}
        own = {f"members.{i}.{name}": tensor for i, network in enumerate(self.networks) for name, tensor in network.learned().items()}
        return shared | own


FILES = ("spec.json", "encoding.json", "model.safetensors")
"""What a model is rebuilt from."""


def rebuild(resolved: Mapping[str, Any], description: Mapping[str, Any], content: bytes) -> Model:
    """The model of a resolved spec, an `encoding.json` and the bytes of `model.safetensors`."""
    if description["format"] > FORMAT:
        raise ValueError(f"format {description['format']} is newer than this release, which reads {FORMAT}")
    tensors = load(content)
    spec = TrainSpec.model_validate(resolved)
    targets = spec.targets or ()
    numbers = tuple(description.get("numbers", range(description["members"])))
    shape, widths = tuple(description["shape"]), tuple(description["widths"])
    encoding = Encoding.model_validate(description["encoding"])
    cut = Cut(tuple(description["cut"]["widths"]), description["cut"]["reads"]) if description.get("cut") is not None else None
    plain = NetworkSpec(spec.architecture, shape, targets, widths, spec.regularizers, kind=encoding.kind)
    specs = [served(plain._replace(architecture=spec.of(number).architecture), cut) for number in numbers]
    preprocess = Normalize(tensors["preprocess.shift"], tensors["preprocess.scale"])
    scales = [Scale(tensors[f"scales.{i}.mean"], tensors[f"scales.{i}.std"]) for i in range(len(targets))]
    networks = tuple(_member(each, preprocess, scales, tensors, i) for i, each in enumerate(specs))
    classes = tuple(tuple(names) if names is not None else None for names in description["classes"])
    weights = tuple(description["weights"]) if description.get("weights") is not None else None
    settled = {name: Settled.model_validate(found) for name, found in description.get("settled", {}).items()}
    return Model(spec, encoding, classes, networks, description["best"], numbers, weights, settled, cut)


def _member(spec: NetworkSpec, preprocess: Normalize, scales: Sequence[Scale], tensors: Mapping[str, Tensor], i: int) -> Network:
    network = Network(spec, preprocess, scales, None)
    prefix = f"members.{i}."
    network.load({name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)})
    return serving(network)


def serving(network: Network) -> Network:
    """The network as it is asked: in evaluation, its weights without gradients."""
    return network.eval().requires_grad_(False)


def _transposed(whole: Network) -> Network:
    """A stack whose weights lie in memory as batched products of few rows read them quickest: by input, then output."""
    for layer in whole.modules():
        if isinstance(layer, Linear):
            layer.weight = nn.Parameter(layer.weight.mT.contiguous().mT, requires_grad=False)
    return whole


def from_files(read: Callable[[str], bytes]) -> Model:
    """The model whose files `read` gives by name."""
    spec, encoding, content = (read(name) for name in FILES)
    return rebuild(json.loads(spec), json.loads(encoding), content)
