"""Models made by hand: random members over a small table, and the material to measure them on."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.data.encoding import ArrayInput, CategoricalInput, Encoding, NumericInput
from service.inference.asking import ask
from service.inference.material import Material
from service.inference.measuring import asked, measure_answers
from service.inference.model import Model, serving
from service.inference.robustness import Subject
from service.nets.network import Network, NetworkSpec, Scale
from service.spec import TrainSpec
from service.tricks.attacks import APGD, FAB, PGD, DeepFool, Ladder, Square
from service.tricks.modes import Asking, Axes
from service.tricks.normalization import Normalize
from service.tricks.splits import Parts

FEATURES, CLASSES = 4, 3
LOW, HIGH = -2.0, 3.0
CLASS = {"task": "classification", "name": "kind"}
NUMBER = {"task": "regression", "name": "size"}
GAUSSIAN = {"task": "regression", "name": "size", "loss": "gaussian_nll"}
SHORT: dict[type, dict[str, Any]] = {
    PGD: {"steps": 5, "restarts": 2},
    APGD: {"steps": 5, "restarts": 2},
    DeepFool: {"steps": 3},
    FAB: {"steps": 3},
    Square: {"queries": 10},
    Ladder: {"steps": 3, "queries": 10},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Bits depend on the number of threads, and other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _stir(network: Network, seed: int) -> None:
    """Larger weights than at the start of training, so that probabilities differ, and running statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.learned().items():
            if name.endswith("weight"):
                tensor.mul_(2.5)
            if "running" in name:
                tensor.add_(torch.rand(tensor.shape, generator=generator))


class Workbench:
    """Makes models, rows for them, and material of those rows."""

    def encoding(self, numbers: int = FEATURES, categories: Sequence[Sequence[str]] = (), shape: tuple[int, ...] | None = None) -> Encoding:
        """Numeric columns n0, n1, … and then categorical ones c0, c1, …; or one image."""
        if shape is not None:
            return Encoding(inputs=(ArrayInput(kind="image", name="image", shape=shape, dtype="float32", low=LOW, high=HIGH),))
        numeric = tuple(NumericInput(name=f"n{i}", fill=0.0, indicator=False, low=LOW, high=HIGH) for i in range(numbers))
        named = tuple(
            CategoricalInput(name=f"c{i}", categories=tuple(names), other=False, missing=False) for i, names in enumerate(categories)
        )
        return Encoding(inputs=numeric + named)

    def model(
        self,
        *targets: Mapping[str, Any],
        encoding: Encoding | None = None,
        size: int = 1,
        seed: int = 0,
        spec: Mapping[str, Any] | None = None,
        **architecture: Any,
    ) -> Model:
        """A model of random members; without targets it tells three classes apart, without `hidden` it is linear."""
        encoding = encoding or self.encoding()
        fields = {"dataset": "made", "targets": list(targets) or [CLASS], "architecture": {"type": "mlp", "hidden": [], **architecture}}
        read = TrainSpec.model_validate({**fields, **(spec or {})})
        widths = tuple(CLASSES if target.task == "classification" else 1 for target in read.targets)
        scales = [
            Scale(torch.zeros(1), torch.ones(1)) if t.task == "classification" else Scale(torch.tensor([5.0]), torch.tensor([2.0]))
            for t in read.targets
        ]
        described = NetworkSpec(read.architecture, encoding.shape, read.targets, widths)
        normalize = Normalize(torch.full((1,), 0.5), torch.full((1,), 2.0))
        members = [Network(described, normalize, scales, torch.Generator().manual_seed(seed + i)) for i in range(size)]
        for member in members:
            _stir(member, seed)
        names = tuple(tuple("abc") if target.task == "classification" else None for target in read.targets)
        return Model(read, encoding, names, tuple(serving(member) for member in members), 0)

    def double(self, model: Model) -> Model:
        """The model in float64."""
        for network in model.networks:
            network.double()
        return model

    def inputs(self, rows: int = 12, features: int = FEATURES, seed: int = 5) -> Tensor:
        """Rows between the bounds of the training rows."""
        return torch.rand(rows, features, generator=torch.Generator().manual_seed(seed)) * (HIGH - LOW) + LOW

    def material(self, model: Model, x: Tensor, labels: Mapping[str, Any]) -> Material:
        """The rows with their labels, all of them in the test part; regression labels in the target's unit."""
        first = model.networks[0]
        scales, known, originals = tuple(first.scales), {}, {}
        for target, scale in zip(model.spec.targets, scales, strict=True):
            if target.task == "classification":
                known[target.name] = torch.as_tensor(labels[target.name])
            else:
                originals[target.name] = np.asarray(labels[target.name], dtype=np.float64).reshape(len(x), -1)
                known[target.name] = ((torch.from_numpy(originals[target.name]) - scale.mean) / scale.std).float()
        parts = Parts(np.arange(0), np.arange(0), np.arange(len(x)))
        return Material(
            model.spec, first.spec, model.encoding, first.preprocess, scales, model.classes, parts, x.numpy(), known, originals
        )  # fmt: skip

    def measure(self, model: Model, material: Material, rows: NDArray[np.int64], axes: Axes) -> dict[str, float | None]:
        """Metrics by name over some rows."""
        return measure_answers(asked(model, material, rows, axes), model, material, rows)

    def said(self, model: Model, x: Tensor, *, keep: bool = False, **fields: Any) -> Any:
        """The first target's answer."""
        return ask(model, x, Asking.model_validate(fields).axes(model), keep=keep)[model.spec.targets[0].name]

    def enumerated(self, model: Model, x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logits or means [M, N, ..] of every mask of one member, mask by mask and in numpy, and the masks' probabilities."""
        (network,) = model.networks
        rates = [np.full(site.units, site.rate) for site in network.sites]
        droppable = np.concatenate(rates) > 0
        outputs, shares = [], []
        for chosen in itertools.product((0.0, 1.0), repeat=int(droppable.sum())):
            kept = np.ones(len(droppable))
            kept[droppable] = chosen
            rate = np.concatenate(rates)
            parts = np.split(kept / (1 - rate), np.cumsum([len(r) for r in rates])[:-1])
            h = ((x.double().numpy() - 0.5) / 2.0) * parts[0]
            for layer, mask in zip(network.trunk.hidden, parts[1:], strict=True):
                z = h @ layer.linear.weight.double().numpy().T + layer.linear.bias.double().numpy()
                h = (np.tanh(z) if model.spec.architecture.activation == "tanh" else np.maximum(z, 0)) * mask
            outputs.append(h @ network.heads[0].weight.double().numpy().T + network.heads[0].bias.double().numpy())
            shares.append(np.where(kept > 0, 1 - rate, rate)[droppable].prod())
        return np.stack(outputs), np.array(shares)

    def subject(self, model: Model, x: Tensor, labels: Any = None, **fields: Any) -> Subject:
        """The rows under attack, with the model's own answers as labels, unless others are given."""
        axes = Asking.model_validate(fields).axes(model)
        answer = ask(model, x, axes)[model.spec.targets[0].name]
        return Subject(model, axes, x, torch.as_tensor(labels) if labels is not None else answer.prediction)

    def attack(self, kind: type, **fields: Any) -> Any:
        """An attack of a kind, short and of epsilon .3 where nothing else is said."""
        return kind(**{**SHORT.get(kind, {}), "epsilon": 0.3, **fields})


@pytest.fixture(scope="session")
def bench() -> Workbench:
    return Workbench()
