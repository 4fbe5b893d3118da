"""What a job is put together from: by factor the values by name, read off the unions so that a new kind joins by itself."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from service.catalog import UNIONS, example, kinds, tag_of
from service.nets import Architecture
from service.tricks.stopping import EarlyStopping
from service.values import Value
from tests.training.covering import Cell, Pair, Row, pairs_of

Fields = dict[str, Any]
WIDTHS = [6, 6, 6]
# Which field of a penalty names two layers: the second and the third, which are of one shape, where there are as many.
PAIRED = {"tie": ("between",), "share": ("layers",)}
UNITS = "a rate for each unit"
# Fields whose every choice is a value of its own; other fields stay as their kind's example has them.
CHOSEN = ("batch_norm", "decoupled", "loss", "method", "nesterov", "residual", "tied", "transposed")
# Where another choice needs other fields than the kind's example; null leaves one out.
BESIDE: dict[str, Fields] = {"l0 projection": {"alpha": None, "keep": 0.5}}
# Which made-up data a task is learnt from; the datasets themselves are made by whoever trains.
DATA: dict[str, tuple[Fields, ...]] = {
    "classification": ({"dataset": "table", "targets": [{"name": "kind"}]}, {"dataset": "images", "targets": [{"name": "y"}]}),
    "regression": ({"dataset": "table", "targets": [{"name": "size"}]},),
    "distribution": ({"dataset": "shares", "targets": [{"name": "y"}]},),
    "reconstruction": ({"dataset": "images", "targets": [{"name": "input"}]},),
}
BOTH = {"dataset": "table", "targets": [{"name": "kind", "task": "classification"}, {"name": "size", "task": "regression"}]}


# Augmentations of images, which tables and other rows do not have.
OF_IMAGES = ("translate", "rotate", "scale", "flip", "cutout", "cutmix")


class Refusal(NamedTuple):
    """Two values, as `factor: pattern of names`, that do not go together, and where and how a job with both is refused."""

    one: str
    other: str
    pointer: str
    code: str = "inconsistent-spec"


def variants(kind: type[Value]) -> Iterator[tuple[str, Fields]]:
    """The kind's example, and one variant for each other choice of the fields that are looked at."""
    base, (_, name) = example(kind), tag_of(kind)
    fields = kind.model_json_schema()["properties"]
    yield name, base
    for field in (field for field in CHOSEN if field in fields and field != tag_of(kind)[0]):
        choices = fields[field].get("enum") or ([False, True] if fields[field].get("type") == "boolean" else [])
        for choice in choices:
            if choice != base.get(field, fields[field].get("default")):
                said = field if choice is True else str(choice)
                fitted = {**base, field: choice, **BESIDE.get(f"{name} {said}", {})}
                yield f"{name} {said}", {key: value for key, value in fitted.items() if value is not None}


def of_union(union: str) -> dict[str, Fields]:
    """Every variant of every kind, by name."""
    return {name: fields for kind in kinds(UNIONS[union]) for name, fields in variants(kind)}


def architectures() -> dict[str, Fields]:
    """Small dense ones: three hidden layers of six units where there are any, and a perceptron without.

    Those over space and time have a table of their own in test_architectures.py: they take other rows than most tasks here have.
    """
    found: dict[str, Fields] = {}
    for kind in (kind for kind in kinds(UNIONS["architectures"]) if kind.dense):
        small = {"hidden": WIDTHS} if "hidden" in kind.model_fields else {}
        found |= {name: {**fields, **small} for name, fields in variants(kind)}
    return {**found, "mlp linear": {"type": "mlp", "hidden": []}}


def tasks() -> dict[str, Fields]:
    """Every loss of every task, on each of the task's datasets, and two targets with gaps in their labels."""
    found: dict[str, Fields] = {}
    for kind in kinds(UNIONS["tasks"]):
        task = tag_of(kind)[1]
        for name, fields in variants(kind):
            for place, data in enumerate(DATA[task]):
                # What stands beside the name of the target: the loss, and nothing of the example's own name.
                own = {key: value for key, value in fields.items() if key != "name"}
                target = {**own, **data["targets"][0]}
                said = name if place == 0 else f"{name} of {data['dataset']}"
                found[said] = {**data, "targets": [target]}
    found |= {
        "two targets": BOTH,
        "two targets of learned weight": {**BOTH, "targets": [{**target, "weight": "learned"} for target in BOTH["targets"]]},
    }
    smooth = {"label_smoothing": 0.1, "class_weights": "balanced", "decision": {"threshold": "validation"}}
    found["classification smoothed"] = {**BOTH, "targets": [{**BOTH["targets"][0], **smooth}]}
    beside = [{"name": "input", "task": "reconstruction"}, {"name": "kind", "task": "classification"}]
    return {**found, "reconstruction beside classes": {"dataset": "table", "targets": beside}}


def dropouts() -> dict[str, Any]:
    """None, one rate, inputs and layers, and a list with rates of units for every second hidden layer."""
    return {"none": None, "one rate": 0.5, "inputs": {"input": 0.2, "hidden": 0.3}, "units": UNITS}


def stoppings() -> dict[str, Any]:
    """No stopping, and each thing that may come after it."""
    fields = EarlyStopping.model_json_schema()["properties"]
    then = fields["then"].get("enum") or [fields["then"]["const"]]
    return {"none": None, **{each: {"patience": 1, "then": each, **({"cap_epochs": 3} if each == "continue" else {})} for each in then}}


def factors() -> dict[str, dict[str, Any]]:
    """By factor, the values by name."""
    return {
        "task": tasks(),
        "architecture": architectures(),
        "dropout": dropouts(),
        "regularizer": {"none": None, **of_union("regularizers")},
        "augmentation": {"none": None, **of_union("augmentations")},
        "adversarial": {"none": None, **of_union("adversarial_training")},
        "ensemble": {
            "one": {},
            "bagged": {"size": 2, "bootstrap": True},
            "varied": {"size": 2, "vary": {"learning_rate": [1e-3, 1e-2], "dropout": [0.0, 0.4]}},
            "greedy": {"size": 2, "selection": "greedy"},
        },
        "stopping": stoppings(),
        "optimizer": of_union("optimizers"),
        "schedule": of_union("schedules"),
        "clip": {"none": None, "norm": {"norm": 0.5}},
        "preprocessing": {"standard": {"normalize": "standard"}, "minmax": {"normalize": "minmax"}, "none": {"normalize": "none"}},
        "batch": {"default": None, "odd": 7, "full": "full"},
    }


FACTORS = factors()
NAMES = {factor: tuple(values) for factor, values in FACTORS.items()}
REFUSALS = (
    Refusal("task: reconstruction*", "architecture: mlp*", "/targets/0/task"),
    *(Refusal(f"task: {task}", "architecture: autoencoder*", "/targets") for task in ("class*", "regr*", "distr*", "two*")),
    Refusal("task: reconstruction*", "augmentation: cutmix", "/augmentation/0/type"),
    Refusal("architecture: autoencoder*", "augmentation: cutmix", "/augmentation/0/type"),
    *(
        Refusal(f"task: {task}", f"augmentation: {kind}", "/augmentation/0/type")
        for task, said in FACTORS["task"].items()
        for kind in OF_IMAGES
        if said["dataset"] == "table"
    ),
    *(
        Refusal(f"task: {task}", f"adversarial: {method}", "/adversarial_training/method")
        for task in ("regression", "regression mae", "regression huber", "regression quantile", "two*", "reconstruction*")
        for method in ("trades", "vat")
    ),
    *(Refusal("architecture: autoencoder*", f"adversarial: {method}", "/adversarial_training/method") for method in ("trades", "vat")),
    *(
        Refusal(f"task: {task}", "adversarial: ibp", "/adversarial_training/method")
        for task in ("regression gaussian_nll", "regression quantile", "distribution", "reconstruction*")
    ),
    Refusal("architecture: autoencoder*", "adversarial: ibp", "/adversarial_training/method"),
    *(Refusal(f"augmentation: {kind}", "adversarial: ibp", "/adversarial_training/method") for kind in ("mixup", "cutmix")),
    *(Refusal("task: classification smoothed", f"stopping: {then}", "/targets/0/decision/threshold") for then in ("retrain", "continue")),
    Refusal("architecture: autoencoder tied", "regularizer: l0", "/regularizers/0"),
    Refusal("architecture: mlp linear", "regularizer: tie*", "/regularizers/0/between/0"),
    Refusal("architecture: mlp linear", "regularizer: share", "/regularizers/0/layers/0"),
    Refusal("ensemble: greedy", "stopping: retrain", "/ensemble/selection"),
    Refusal("ensemble: greedy", "stopping: continue", "/ensemble/selection"),
    Refusal("architecture: mlp linear", "ensemble: varied", "/ensemble/vary/dropout"),
    Refusal("dropout: units", "ensemble: varied", "/ensemble/vary/dropout"),
    Refusal("architecture: mlp linear", "regularizer: max_norm*", "/regularizers/0"),
)


def job(row: Mapping[str, str]) -> Fields:
    """The job of a value per factor; one that is not named has the first that goes with those that are."""
    row = completed(row)
    said = {factor: FACTORS[factor][value] for factor, value in row.items()}
    net, dropout, penalty = said["architecture"], said["dropout"], said["regularizer"]
    drawing = TypeAdapter[Any](Architecture).validate_python(net)
    if dropout == UNITS:
        dropout = {"hidden": [[0.1 * (i % 5) for i in range(width)] if layer % 2 else 0.2 for layer, width in enumerate(drawing.rated)]}
    alike = list(drawing.build((4,), None).linears())[1:3]
    if penalty and len(alike) == 2:
        penalty = {**penalty, **dict.fromkeys(PAIRED.get(penalty["type"], ()), alike)}
    return {
        **said["task"],
        "architecture": {**net, "dropout": dropout} if dropout is not None else net,
        "regularizers": [penalty] if penalty else [],
        "augmentation": [said["augmentation"]] if said["augmentation"] else [],
        "adversarial_training": said["adversarial"],
        "ensemble": said["ensemble"],
        "early_stopping": said["stopping"],
        "optimizer": said["optimizer"],
        "schedule": said["schedule"],
        "gradient_clip": said["clip"],
        "preprocessing": said["preprocessing"],
        "batch_size": said["batch"],
        "split": {"validation": 0.25, "test": 0.15},
        "epochs": 3,
        "checkpoint_interval_s": 0,
    }


def completed(row: Mapping[str, str]) -> Row:
    """The row with a value of every factor: the first that is refused nowhere but where the row itself is."""
    found, own = dict(row), {refusal.pointer for pair in combinations(row.items(), 2) if (refusal := _declared(*pair))}

    def fits(cell: Cell) -> bool:
        return {refusal.pointer for other in found.items() if (refusal := _declared(cell, other))} <= own

    for factor, values in NAMES.items():
        if factor not in found:
            found[factor] = next((value for value in values if fits((factor, value))), values[0])
    return {factor: found[factor] for factor in NAMES}


def _declared(one: Cell, other: Cell) -> Refusal | None:
    """What is declared of the two, in either order."""
    for refusal in REFUSALS:
        if any(_matches(refusal.one, a) and _matches(refusal.other, b) for a, b in ((one, other), (other, one))):
            return refusal
    return None


def _matches(said: str, cell: Cell) -> bool:
    factor, _, pattern = said.partition(": ")
    return cell[0] == factor and fnmatchcase(cell[1], pattern)


def refused() -> dict[Pair, Refusal]:
    """The pairs that are declared not to go together; of two entries for one the first counts."""
    return {pair: refusal for pair in pairs_of(NAMES) if (refusal := _declared(*pair)) is not None}
