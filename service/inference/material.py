"""A dataset as a network sees it: encoded inputs, labels, parts, and the normalizers of the training rows."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.data.columns import Columns
from service.data.encoding import Encoding, fit
from service.inference.sources import Sources, source_of, take_over
from service.nets.network import Network, NetworkSpec, Scale
from service.partition import draw_parts
from service.spec import TrainSpec
from service.tricks import splits
from service.tricks.certification import IBPTraining
from service.tricks.multitask import Reconstruction, Target
from service.tricks.normalization import Normalize
from service.tricks.targets import Given

HEAVY = 1e30
"""A sample weight's most, of rows outside training against the largest inside."""


@dataclass(frozen=True)
class Material:
    """Everything that spec and dataset determine before any weight exists; the same for every shard of a job."""

    spec: TrainSpec
    network: NetworkSpec
    encoding: Encoding
    preprocess: Normalize
    scales: tuple[Scale, ...]
    classes: tuple[tuple[str, ...] | None, ...]
    parts: splits.Parts
    inputs: NDArray[Any]
    """All rows, encoded [N, ...], of their own type."""
    labels: dict[str, Tensor]
    """By target: int64 [N], -1 missing, or float32 [N, D] in normalized units or [N, C], NaN missing."""
    originals: dict[str, NDArray[np.float64]]
    """Numbers in their own unit [N, D]."""
    fitted: tuple[Target, ...] = ()
    """The targets with what their losses take from the training rows; empty: those of the spec."""
    weights: Tensor | None = None
    """What each row counts in the training loss [N]; None: all alike."""
    sources: Sources = field(default_factory=dict)
    """The members of the stored models that the spec refers to, by id."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, as losses take them."""
        return self.fitted or self.spec.targets or ()

    def rows(self, part: NDArray[np.int64]) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs and labels of some rows."""
        index = torch.from_numpy(part)
        return torch.from_numpy(self.inputs[part]), {name: labels[index] for name, labels in self.labels.items()}

    @property
    def mirrored(self) -> bool:
        """Whether any target's labels are the inputs themselves."""
        return any(target.from_inputs for target in self.targets)

    def mirror(self, x: Tensor) -> dict[str, Tensor]:
        """The labels that are the inputs themselves, of rows x [.., N, *shape] by target: made where they are needed, not kept."""
        z = self.preprocess(x).flatten(-max(len(self.network.shape), 1))
        pairs = zip(self.targets, self.scales, strict=True)
        return {target.name: target.labels(z, scale.mean, scale.std) for target, scale in pairs if isinstance(target, Reconstruction)}

    def truth(self, target: Target, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """What some rows have of a target of numbers [N, D], in its own unit."""
        if target.from_inputs:
            return self.inputs[rows].reshape(len(rows), -1).astype(np.float64)
        return self.originals[target.name][rows]

    def build(self, generator: torch.Generator | None, *, member: int = 0) -> Network:
        """The member's network, of these shapes and scales; without a generator its weights stay unset."""
        spec = self.network._replace(architecture=self.spec.of(member).architecture)
        return Network(spec, self.preprocess, self.scales, generator)

    def initial(self, member: int) -> Network:
        """The member's network before its first step."""
        seed = self.spec.ensemble.seed(member, "init", seed=self.spec.seed)
        generator = torch.Generator().manual_seed(seed)
        network = self.build(generator, member=member)
        if isinstance(self.spec.adversarial_training, IBPTraining):
            self.spec.adversarial_training.begin(network, generator)
        if self.spec.init is not None:
            take_over(self.spec.init, network, source_of(self.sources, self.spec.init.model, member))
        return network

    @property
    def movable(self) -> Tensor | None:
        """Which entries of an encoded row adversarial training moves, 1 or 0: no categories and indicators; None: all."""
        plain = self.encoding.plain
        return torch.cat([torch.ones(self.encoding.shape[0] - plain), torch.zeros(plain)]) if plain else None

    @property
    def kind(self) -> str:
        """`table`, `image` or `tensor`."""
        return self.encoding.kind


def prepare(spec: TrainSpec, columns: Columns, sources: Sources | None = None) -> Material:
    """The material of a resolved spec, with the stored models that it refers to."""
    targets = spec.targets or ()
    description = columns.description
    parts = draw_parts(spec, columns)
    encoding = fit(columns, spec.inputs_of(description), parts.train, spec.features)
    inputs = encoding.read(columns)
    kind = encoding.array.kind if encoding.array else "table"
    preprocess = spec.preprocessing.fit(inputs, parts.train, kind=kind, plain=encoding.plain)
    given = Given(columns, parts.train, inputs, preprocess, spec.preprocessing.normalize_targets)
    read = {target.name: target.labelled(given) for target in targets}
    train = torch.from_numpy(parts.train)
    frozen = spec.init.freeze if spec.init is not None else ()
    return Material(
        spec,
        NetworkSpec(
            spec.architecture,
            encoding.shape,
            targets,
            tuple(each.width for each in read.values()),
            spec.regularizers,
            frozen,
            kind=encoding.kind,
        ),
        encoding,
        preprocess,
        tuple(Scale(each.mean, each.std) for each in read.values()),
        tuple(each.classes for each in read.values()),
        parts,
        inputs,
        {name: each.labels for name, each in read.items()},
        {name: each.originals for name, each in read.items() if each.originals is not None},
        tuple(target.fitted(read[target.name].labels[train], read[target.name].classes) for target in targets),
        _sample_weights(spec, columns, parts.train),
        sources or {},
    )


def _sample_weights(spec: TrainSpec, columns: Columns, train: NDArray[np.int64]) -> Tensor | None:
    """What each row counts [N], divided by a power of 2 such that the largest of the training rows is between 1/2 and 1.

    In a weighted mean the ratios alone count. A power of 2 changes no bit of it, and what float32 cannot hold is brought near 1.
    """
    if spec.features.weight is None:
        return None
    values = columns.read(spec.features.weight).astype(np.float64)
    _, exponent = np.frexp(values[train].max())
    with np.errstate(over="ignore", under="ignore"):
        return torch.from_numpy(np.minimum(np.ldexp(values, -exponent), HEAVY).astype(np.float32))
