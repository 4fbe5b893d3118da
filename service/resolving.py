"""From a posted spec and its dataset to a plan: every default filled in, every contradiction found before work starts."""

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from service import checks, data_checks, invariance_checks, label_checks, layer_checks
from service.data.columns import Columns
from service.data.encoding import expected_shape
from service.data.fields import Description, Field
from service.errors import Flaw, Invalid, NotFound
from service.estimate import Cost, Load, compiles, cost_of, graphs_of, moments_of, second_phase
from service.flaws import flaws_of
from service.layer_checks import Stored
from service.nets import Architecture
from service.nets.architecture import Drawing
from service.nets.base import LayerInfo
from service.nets.network import Network, NetworkSpec, Scale, weighted
from service.settings import Settings
from service.spec import JobSpec, RobustnessSpec, TrainSpec
from service.tricks import splits
from service.tricks.bagging import Ensemble
from service.tricks.certification import IBPTraining
from service.tricks.normalization import Normalize
from service.tricks.penalties import Regularizer
from service.tricks.splits import GIVEN, Split

_JOB: TypeAdapter[TrainSpec | RobustnessSpec] = TypeAdapter(JobSpec)
_ARCHITECTURE: TypeAdapter[Drawing] = TypeAdapter(Architecture)


class Source(NamedTuple):
    """A stored dataset: what is known of it, and the folder of its columns."""

    id: str
    name: str
    description: Description
    folder: Path
    declared_targets: bool = True
    """Whether its default targets were declared, not guessed."""


class Plan(NamedTuple):
    """A spec in which nothing is left open, what it will cost, and how it is cut into shards."""

    spec: dict[str, Any]
    kind: str
    name: str
    dataset_id: str
    layers: tuple[LayerInfo, ...]
    cost: Cost
    shards: tuple[tuple[int, ...], ...]
    warnings: tuple[Flaw, ...]
    models: tuple[str, ...] = ()
    """Ids of the stored models that it refers to."""


def no_models(ref: str) -> Stored:
    """Where there is no model to refer to."""
    raise NotFound(f"there is no model {ref}")


def parse(raw: Any) -> TrainSpec | RobustnessSpec:
    """The spec as typed values; raises Invalid."""
    filled = {"kind": "train", **raw} if isinstance(raw, dict) else raw
    try:
        return _JOB.validate_python(filled)
    except ValidationError as error:
        raise Invalid(flaws_of(error, filled, model=JobSpec)) from error


def resolve(raw: Any, lookup: Callable[[str], Source], settings: Settings, models: Callable[[str], Stored] = no_models) -> Plan:
    """The plan of a training job; raises Invalid with every flaw that was found."""
    source, flaw = _source(raw, lookup)
    warnings: list[Flaw] = []
    if source is not None:
        raw = {**raw, "targets": _targets(raw, source, warnings)}
    try:
        spec = parse(raw)
    except Invalid as error:
        raise Invalid([*([flaw] if flaw else []), *error.flaws]) from error
    if flaw is not None or source is None or isinstance(spec, RobustnessSpec):
        raise Invalid([flaw or Flaw("/kind", "unknown-choice", "this kind of job is planned elsewhere")])
    spec, stored = _referred(spec, models)
    return _plan(spec, raw, source, settings, warnings, stored)


def _referred(spec: TrainSpec, models: Callable[[str], Stored]) -> tuple[TrainSpec, dict[str, Stored]]:
    """The spec with the ids of the stored models that it refers to, and what is known of these; raises Invalid."""
    found: dict[str, Stored] = {}
    flaws = []
    for pointer, ref in layer_checks.referred(spec):
        try:
            found[ref] = models(ref)
        except NotFound:
            flaws.append(Flaw(pointer, "not-found", "there is no such model"))
    if flaws:
        raise Invalid(flaws)
    ids = {ref: stored.id for ref, stored in found.items()}
    return layer_checks.with_ids(spec, ids), {stored.id: stored for stored in found.values()}


def _source(raw: Any, lookup: Callable[[str], Source]) -> tuple[Source | None, Flaw | None]:
    """The dataset that a spec names, if it names one."""
    name = raw.get("dataset") if isinstance(raw, dict) else None
    if not isinstance(name, str):
        return None, None
    try:
        return lookup(name), None
    except NotFound:
        return None, Flaw("/dataset", "not-found", "there is no such dataset")


def _targets(spec: dict[str, Any], source: Source, warnings: list[Flaw]) -> Any:
    """The targets with their tasks put in, as a tagged union needs them; an autoencoder's is its input."""
    raw, decodes = spec.get("targets"), _decodes(spec.get("architecture"))
    if raw is None and decodes:
        raw = [{"name": "input"}]
    if raw is None:
        if not source.declared_targets:
            message = f"the last column, {source.description.targets[-1]!r}, was taken as the target"
            warnings.append(Flaw("/targets", "guessed-target", message))
        raw = [{"name": name} for name in source.description.targets]
        if not raw:
            names = ", ".join(field.name for field in source.description.fields if field.name != "x")
            raise Invalid([Flaw("/targets", "missing-field", f"name the targets; the dataset has {names}")])
    if not isinstance(raw, list):
        return raw
    return [{"task": _task(target, source, decodes), **target} if isinstance(target, dict) else target for target in raw]


def _decodes(architecture: Any) -> bool:
    """Whether the architecture has a decoder; a wrong one, which is refused next, may have had one."""
    try:
        return _ARCHITECTURE.validate_python(architecture).reconstructs
    except ValidationError:
        return True


def _task(target: dict[str, Any], source: Source, decodes: bool) -> str:
    """Classification for what has classes, distribution for rows that sum to 1, regression for other numbers.

    Reconstruction for what is no field, where there is a decoder.
    """
    fields = {field.name: field for field in source.description.fields}
    field = fields.get(target["name"]) if isinstance(target.get("name"), str) else None
    if field is None and decodes:
        return "reconstruction"
    if field is not None and _distributes(field, source):
        return "distribution"
    return "regression" if field is not None and not field.discrete and field.kind in ("numeric", "tensor", "image") else "classification"


def _distributes(field: Field, source: Source) -> bool:
    """Whether a field holds rows of probabilities."""
    if len(field.shape) != 1 or field.shape[0] < 2 or field.dtype == "uint8" or field.min is None or field.min < 0 or (field.max or 0) > 1:
        return False
    sums = Columns(source.folder).read(field.name).sum(axis=1, dtype=np.float64)
    known = sums[~np.isnan(sums)]
    return bool(len(known) and np.allclose(known, 1.0, atol=1e-6))


def _plan(
    spec: TrainSpec, raw: dict[str, Any], source: Source, settings: Settings, warnings: list[Flaw], stored: dict[str, Stored]
) -> Plan:
    description = source.description
    spec, parts = _split(spec, raw, description)
    checks.refuse(checks.reconstruction(spec), data_checks.data(spec, description, parts, warnings))
    parts = _drawn(spec.split, source) or parts
    shape = expected_shape(spec.inputs_of(description), spec.features)
    augmenting = invariance_checks.augmentation(spec, shape, description.invariances, warnings)
    checks.refuse(checks.size(spec, shape, _kind(spec, description), settings), augmenting)
    bare = blueprint(spec, source)
    wrong = list(layer_checks.Layers(spec, bare, stored).flaws())
    network = bare if wrong or not spec.regularizers else blueprint(spec, source, spec.regularizers)
    shards = _shards(spec.ensemble, settings.shards)
    inputs, load = spec.inputs_of(description), _load(spec, description, parts["train"], max(map(len, shards)))
    cost = cost_of(network, second_phase(spec, load, validation=parts["validation"]))
    layers = network.describe()
    constant = [field.name for field in inputs if field.name in description.audit.constant]
    if constant:
        warnings.append(Flaw("/features", "constant-feature", f"{', '.join(constant)} never changes; it is shifted and divided by 1"))
    labelled = label_checks.labels(spec, Columns(source.folder))
    bounded = checks.costs(spec, cost, settings, _machine_bytes())
    checks.refuse(iter(wrong), labelled, checks.vary(spec, warnings), checks.network(spec, warnings), bounded)
    resolved = _filled(spec, source, network, load.batch)
    return Plan(
        resolved.dump(), "train", resolved.name or source.name, source.id, layers, cost, shards, tuple(warnings), tuple(stored)
    )  # fmt: skip


def _load(spec: TrainSpec, description: Description, train: int, shard: int) -> Load:
    """What a job on so many training rows has to do, of whose members at most `shard` are one trainer's."""
    inputs = spec.inputs_of(description)
    return Load(
        rows=description.rows,
        row_bytes=_row_bytes(inputs),
        read_bytes=(1 if inputs and inputs[0].dtype == "uint8" else 4) * math.prod(expected_shape(inputs, spec.features)),
        train=max(1, round(train * spec.ensemble.fraction)),
        batch=len_batch(spec, train),
        epochs=spec.epochs,
        max_steps=spec.max_steps,
        members=spec.ensemble.size,
        shard=shard,
        passes=spec.adversarial_training.passes if spec.adversarial_training is not None else 3,
        graphs=graphs_of(spec),
        bounded=isinstance(spec.adversarial_training, IBPTraining) and spec.adversarial_training.weight > 0,
        moments=moments_of(spec),
        compiles=compiles(spec),
    )


def _split(spec: TrainSpec, raw: dict[str, Any], description: Description) -> tuple[TrainSpec, dict[str, int]]:
    """The spec with its split; without early stopping, unless asked for, where nothing validates or bounds are ramped up."""
    default: Split | Literal["given"] = GIVEN if description.splits else Split(validation=0.15, test=0.15)
    split = spec.split if spec.split is not None else default
    parts = splits.sizes(split, description.rows, description.splits)
    lasts = not parts["validation"] or isinstance(spec.adversarial_training, IBPTraining)
    if lasts and "early_stopping" not in raw:
        return spec.model_copy(update={"split": split, "early_stopping": None}), parts
    return spec.model_copy(update={"split": split}), parts


def _drawn(split: Split | str | None, source: Source) -> dict[str, int] | None:
    """How many rows whole groups make of each part, None without groups; raises Invalid where they cannot make them."""
    if not isinstance(split, Split) or split.group is None:
        return None
    groups = splits.Columns(groups=Columns(source.folder).read(split.group))
    return {part: len(rows) for part, rows in splits.draw(split, source.description.rows, groups)._asdict().items()}


def _kind(spec: TrainSpec, description: Description) -> str:
    """What rows are to a network: a table of columns, an image, or a tensor."""
    inputs = spec.inputs_of(description)
    return inputs[0].kind if len(inputs) == 1 and inputs[0].kind in ("image", "tensor") else "table"


def _row_bytes(inputs: Sequence[Field]) -> int:
    """Memory of an encoded row: columns become float32, an array stays in its file unless gaps have to be filled."""
    if len(inputs) == 1 and inputs[0].kind in ("image", "tensor"):
        return 4 * math.prod(inputs[0].shape) if inputs[0].missing else 0
    return sum(4 * max(1, len(field.classes or ())) for field in inputs)


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def len_batch(spec: TrainSpec, train: int) -> int:
    """Rows of a batch: at most all training rows."""
    if spec.batch_size == "full":
        return max(train, 1)
    return int(spec.batch_size) if spec.batch_size is not None else max(1, min(64, train))


def blueprint(spec: TrainSpec, source: Source, regularizers: tuple[Regularizer, ...] = ()) -> Network:
    """The network on the meta device, without memory: for shapes and counts; raises Invalid for too many classes.

    With `regularizers` its layers have the gates, and share the parameters, that these say.
    """
    targets = spec.targets or ()
    shape = expected_shape(spec.inputs_of(source.description), spec.features)
    columns = Columns(source.folder)
    widths = tuple(target.width(columns, shape) for target in targets)
    checks.refuse(data_checks.widths(targets, columns, widths))
    with torch.device("meta"):
        plain = Normalize(torch.zeros(1), torch.ones(1))
        scales = [Scale(torch.zeros(1), torch.ones(1)) for _ in targets]
        built = NetworkSpec(spec.architecture, shape, targets, widths, regularizers, kind=_kind(spec, source.description))
        return Network(built, plain, scales, None)


def _filled(spec: TrainSpec, source: Source, network: Network, batch: int) -> TrainSpec:
    """The spec with names, layers and numbers in place of what was left open."""
    everything = list(network.layers())
    with_weights = weighted(network)
    regularizers = tuple(penalty.filled(everything if penalty.parameters == "all" else with_weights) for penalty in spec.regularizers)
    name = spec.name or checks.as_name(source.name)
    return spec.model_copy(update={"name": name, "regularizers": regularizers, "batch_size": spec.batch_size or batch})


def _shards(ensemble: Ensemble, most: int) -> tuple[tuple[int, ...], ...]:
    """Consecutive members, as evenly as can be, in at most `most` shards."""
    count = min(ensemble.size, most)
    bounds = [round(i * ensemble.size / count) for i in range(count + 1)]
    return tuple(tuple(range(low, high)) for low, high in pairwise(bounds))
