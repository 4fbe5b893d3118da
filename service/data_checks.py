"""Contradictions between a spec and its dataset, and between a split and what needs its parts."""

from collections.abc import Sequence

import torch

from service.checks import Flaws
from service.data.columns import Columns
from service.data.fields import REACH, Description, Field
from service.errors import Flaw
from service.spec import TrainSpec
from service.tricks.certification import IBPTraining, certifiable
from service.tricks.divergence import speaks
from service.tricks.multitask import Target
from service.tricks.smoothing import TRADES, VAT
from service.tricks.splits import Split
from service.tricks.stopping import EarlyStopping
from service.tricks.transforms import Mixing


def data(spec: TrainSpec, description: Description, parts: dict[str, int], warnings: list[Flaw]) -> Flaws:
    """What a spec asks of its dataset and the dataset does not have."""
    fields = {field.name: field for field in description.fields}
    targets = spec.targets or ()
    names = [target.name for target in targets]
    unseen = {**parts, "validation": 0} if spec.trains_on_validation else parts
    for i, target in enumerate(targets):
        yield from (flaw._replace(pointer=f"/targets/{i}{flaw.pointer}") for flaw in target.misfits(description, unseen))
        if target.name in names[:i]:
            yield Flaw(f"/targets/{i}/name", "inconsistent-spec", f"the target {target.name!r} is named twice")
    yield from _features(spec, description, [target.name for target in targets if not target.from_inputs], fields)
    yield from _split(spec.split, description, parts, fields)
    yield from _training(spec, parts, warnings)
    yield from _smoothing(spec)
    yield from _bounded(spec, warnings)
    if spec.ensemble.selection is not None and spec.ensemble.size == 1:
        yield Flaw("/ensemble/selection", "inconsistent-spec", "of one member there is nobody to select")
    elif spec.ensemble.selection is not None and not unseen["validation"]:
        none = "members are selected on validation rows that are never trained on, and there are none"
        yield Flaw("/ensemble/selection", "inconsistent-spec", none)


def widths(targets: Sequence[Target], columns: Columns, counts: Sequence[int]) -> Flaws:
    """Numbers of classes that a target cannot have; what an upload called classes is bounded there."""
    for i, (target, count) in enumerate(zip(targets, counts, strict=True)):
        yield from (flaw._replace(pointer=f"/targets/{i}{flaw.pointer}") for flaw in target.unfit(columns, count))


def _features(spec: TrainSpec, description: Description, targets: list[str], fields: dict[str, Field]) -> Flaws:
    for key in ("use", "drop"):
        for i, name in enumerate(getattr(spec.features, key) or ()):
            if name not in fields:
                yield Flaw(f"/features/{key}/{i}", "inconsistent-spec", f"the dataset has no field {name!r}")
            elif name in targets and key == "use":
                yield Flaw(f"/features/{key}/{i}", "inconsistent-spec", f"{name!r} is a target")
    if any(name not in fields for name in targets):
        return
    if spec.features.weight is not None:
        yield from _weight(spec.features.weight, spec.features.use or (), targets, fields)
    yield from _inputs(spec, spec.inputs_of(description))


def _weight(name: str, used: Sequence[str], targets: Sequence[str], fields: dict[str, Field]) -> Flaws:
    """What keeps a column from being sample weights."""
    where, field = "/features/weight", fields.get(name)
    if field is None:
        yield Flaw(where, "inconsistent-spec", f"the dataset has no field {name!r}")
    elif field.kind != "numeric":
        yield Flaw(where, "inconsistent-spec", f"{name!r} is {field.kind}; weights are numbers")
    elif name in targets or name in used:
        yield Flaw(where, "inconsistent-spec", f"{name!r} is {'a target' if name in targets else 'an input'}, so that it is no weight")
    elif field.missing:
        yield Flaw(where, "invalid-data", f"{name!r} misses {field.missing} values")
    elif field.min is None or field.min < 0 or not field.max:
        yield Flaw(where, "invalid-data", f"{name!r} runs from {field.min} to {field.max}; weights are at least 0, and some are more")


def _inputs(spec: TrainSpec, inputs: tuple[Field, ...]) -> Flaws:
    if not inputs:
        yield Flaw("/features", "inconsistent-spec", "no input is left")
    elif len(inputs) > 1 and any(field.kind in ("image", "tensor") for field in inputs):
        yield Flaw("/features", "inconsistent-spec", "an image or array is the only input")
    beyond = ", ".join(repr(field.name) for field in inputs if not field.reachable)
    if beyond:
        yield Flaw("/features", "invalid-data", f"numbers beyond {REACH:g} in {beyond}; networks compute in float32")
    if spec.features.missing == "error":
        for field in inputs:
            if field.missing:
                yield Flaw("/features/missing", "inconsistent-spec", f"{field.name!r} misses {field.missing} values")


def _split(split: object, description: Description, parts: dict[str, int], fields: dict[str, Field]) -> Flaws:
    if isinstance(split, str) and not description.splits:
        yield Flaw("/split", "inconsistent-spec", "the dataset carries no splits")
        return
    if isinstance(split, Split):
        yield from _rows(split, description.rows)
        for key in ("group", "time"):
            name = getattr(split, key)
            if name is not None and (name not in fields or fields[name].kind in ("image", "tensor")):
                yield Flaw(f"/split/{key}", "inconsistent-spec", f"the dataset has no column {name!r}")
            elif name is not None and fields[name].kind == "ignore":
                yield Flaw(f"/split/{key}", "inconsistent-spec", f"{name!r} is ignored in this dataset: its values were not kept")
            elif key == "time" and name is not None and fields[name].kind != "numeric":
                yield Flaw("/split/time", "inconsistent-spec", f"{name!r} is not numeric, so that no row is newest")
        if split.group is not None and split.time is not None:
            yield Flaw("/split/time", "inconsistent-spec", "group and time exclude each other")
    if parts["train"] < 1:
        yield Flaw("/split", "inconsistent-spec", f"no training row is left of {description.rows}")


def _rows(split: Split, rows: int) -> Flaws:
    taken: set[int] = set()
    for key in ("validation_rows", "test_rows"):
        for i, row in enumerate(getattr(split, key) or ()):
            if row >= rows:
                yield Flaw(f"/split/{key}/{i}", "value-out-of-range", f"the dataset has rows 0 to {rows - 1}")
            elif row in taken:
                yield Flaw(f"/split/{key}/{i}", "inconsistent-spec", f"row {row} is named twice")
            taken.add(row)


def _training(spec: TrainSpec, parts: dict[str, int], warnings: list[Flaw]) -> Flaws:
    train = parts["train"]
    if isinstance(spec.batch_size, int) and spec.batch_size > max(train, 1):
        yield Flaw("/batch_size", "value-out-of-range", f"there are {train} training rows")
    if spec.batch_size == 1 and spec.architecture.normalizes:
        yield Flaw("/batch_size", "inconsistent-spec", "batch norm needs more than one row to normalize over")
    stopping = spec.early_stopping
    if stopping is not None:
        if not parts["validation"]:
            yield Flaw("/early_stopping", "inconsistent-spec", "early stopping needs validation rows")
        yield from _monitor(stopping.monitor, spec)
        _unused(stopping, warnings)
        if stopping.patience > spec.epochs:
            warnings.append(Flaw("/early_stopping/patience", "patience-beyond-epochs", "patience exceeds epochs, so that it never stops"))
    if spec.device.startswith("cuda"):
        number = int(spec.device.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            yield Flaw("/device", "device-unavailable", f"there are {torch.cuda.device_count()} CUDA devices")


def _unused(stopping: EarlyStopping, warnings: list[Flaw]) -> None:
    """What is said of a second phase that there is not."""
    if stopping.cap_epochs is not None and stopping.then != "continue":
        warnings.append(Flaw("/early_stopping/cap_epochs", "unused-choice", "only `then: continue` has a cap"))
    if stopping.retrain_by == "epochs" and stopping.then != "retrain":
        warnings.append(Flaw("/early_stopping/retrain_by", "unused-choice", "only `then: retrain` trains again"))


def _smoothing(spec: TrainSpec) -> Flaws:
    """Divergences between what heads say, where a head says no distribution."""
    rule = spec.adversarial_training
    if isinstance(rule, TRADES | VAT):
        for target in spec.targets or ():
            if not speaks(target):
                message = f"{rule.method} compares distributions, and of {target.name!r} the loss {target.loss} learns no distribution"
                yield Flaw("/adversarial_training/method", "inconsistent-spec", message)


def _bounded(spec: TrainSpec, warnings: list[Flaw]) -> Flaws:
    """Bounds of what has none, and a choice of weights that may come from before the bounds."""
    if not isinstance(spec.adversarial_training, IBPTraining):
        return
    where = "/adversarial_training/method"
    for target in spec.targets or ():
        if not certifiable(target):
            yield Flaw(where, "inconsistent-spec", f"ibp bounds classes and single numbers, not {target.name!r} of the loss {target.loss}")
    for augmentation in spec.augmentation:
        if isinstance(augmentation, Mixing) and any(target.says == "classes" for target in spec.targets or ()):
            yield Flaw(where, "inconsistent-spec", f"ibp bounds one class of a row, and {augmentation.type} mixes classes")
    if spec.early_stopping is not None:
        message = "epochs before the ramp's end may be the best there is, and are bounded by nothing; null keeps the last weights"
        warnings.append(Flaw("/early_stopping", "stops-before-bounds", message))


def _monitor(monitor: str, spec: TrainSpec) -> Flaws:
    targets, choices = spec.targets or (), {"loss"}
    if monitor == "adversarial_loss" and spec.adversarial_training is None:
        yield Flaw("/early_stopping/monitor", "inconsistent-spec", "adversarial_loss is that of adversarial_training, and there is none")
        return
    if spec.adversarial_training is not None:
        choices.add("adversarial_loss")
    for target in targets:
        names = target.monitors
        choices |= {f"{target.name}.{name}" for name in names} | (set(names) if len(targets) == 1 else set())
    if monitor not in choices:
        yield Flaw("/early_stopping/monitor", "unknown-choice", f"this release monitors {', '.join(sorted(choices))}")
