"""`JobSpec`: the unions composed. What follows from a dataset is filled in by `service.resolving`."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema

from service.data import fields
from service.data.encoding import Features
from service.data.fields import Description
from service.nets import Architecture
from service.tricks.adversarial import AdversarialTraining
from service.tricks.attacks import Attack, smallest
from service.tricks.augmentation import Augmentation
from service.tricks.bagging import Ensemble
from service.tricks.choices import AtMost, refuse
from service.tricks.modes import Asking
from service.tricks.multitask import Target
from service.tricks.normalization import Preprocessing
from service.tricks.optimization import Adam, Constant, GradientClip, Optimizer, Schedule
from service.tricks.penalties import Regularizer
from service.tricks.splits import Split
from service.tricks.starting import Init
from service.tricks.stopping import EarlyStopping
from service.values import ITEMS, NAME, Seed, Value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise refuse("invalid-name", "names match [a-z0-9][a-z0-9._-]{0,63} and do not start with ds_, job_, mdl_ or key_")
    return value


def _labels(value: dict[str, str]) -> dict[str, str]:
    if len(value) > 32 or any(len(key) > 256 or len(text) > 256 for key, text in value.items()):
        raise refuse("value-out-of-range", "at most 32 labels of at most 256 characters")
    return value


def _split(value: Any) -> Any:
    if isinstance(value, str) and value != "given":
        raise refuse("unknown-choice", 'a split is an object or "given"')
    return Split.model_validate(value) if isinstance(value, dict) else value


def _batch(value: Any) -> Any:
    if value == "full" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise refuse("value-out-of-range", 'batch_size is "full" or a number from 1 to the training rows')


def _device(value: str) -> str:
    head, _, number = value.partition(":")
    if value not in ("auto", "cpu", "cuda") and not (head == "cuda" and number.isdecimal() and len(number) < 4):
        raise refuse("unknown-choice", "devices are auto, cpu, cuda, cuda:N")
    return value


Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": f"^{NAME.pattern}$"})]
Labels = Annotated[dict[str, str], AfterValidator(_labels)]
BatchSize = Annotated[Annotated[int, Field(ge=1)] | Literal["full"], BeforeValidator(_batch)]
DataSplit = Annotated[Split | Literal["given"], BeforeValidator(_split)]


class Limits(Value):
    """Bounds on a running job, in seconds."""

    time_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which the job ends with the best weights so far."""
    stall_s: Annotated[float, Field(gt=0)] = 600
    """Seconds without progress after which an attempt is killed."""


class _Job(Value):
    """What every kind of job has."""

    name: Name | None = None
    """The model's name; null: the dataset's."""
    seed: Seed = 0
    """Of all random streams."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Higher goes first."""
    labels: Labels = Field(default_factory=dict)
    """Up to 32 pairs of strings, to find the job by."""
    limits: Limits = Limits()
    """Bounds on time."""


class TrainSpec(_Job):
    """One training job of k >= 1 members; only `dataset` and `architecture` are required."""

    kind: Literal["train"] = "train"
    """Training."""
    dataset: Annotated[str, Field(examples=["digits"])]
    """Id or name of a dataset."""
    split: DataSplit | None = None
    """Which rows validate and test; "given": the dataset's own parts."""
    targets: Annotated[tuple[Target, ...], ITEMS, Field(min_length=1), AtMost(64)] | None = None
    """What is predicted; null: what the dataset says."""
    features: Features = Features()
    """Which columns are inputs, and how they are read."""
    preprocessing: Preprocessing = Preprocessing()
    """How inputs and targets are scaled."""
    architecture: Annotated[Architecture, Field(examples=[{"type": "mlp", "hidden": [64, 64]}])]
    """The network."""
    regularizers: Annotated[tuple[Regularizer, ...], ITEMS, AtMost(64)] = ()
    """Penalties and constraints on weights."""
    augmentation: Annotated[tuple[Augmentation, ...], ITEMS, AtMost(32)] = ()
    """Changes of training rows that keep their labels."""
    adversarial_training: AdversarialTraining | None = None
    """Training on rows moved against the network."""
    ensemble: Ensemble = Ensemble()
    """Members."""
    init: Init | None = None
    """A stored model to start from."""
    optimizer: Optimizer = Adam()
    """How weights move."""
    schedule: Schedule = Constant()
    """How the learning rate changes."""
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training rows."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Most optimizer steps."""
    batch_size: BatchSize | None = None
    """Rows of a step; "full": all."""
    gradient_clip: GradientClip | None = None
    """A bound on the gradient."""
    precision: Literal["fp32"] = "fp32"
    """Of the arithmetic."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    """When to stop; null: after all epochs."""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """auto, cpu, cuda or cuda:N."""
    checkpoint_interval_s: Annotated[float, Field(ge=0)] = 1
    """Seconds between checkpoints, at least."""

    def of(self, member: int) -> "TrainSpec":
        """The member's own spec: the same, with what `ensemble.vary` has for it put in its place."""
        own = self.ensemble.vary.values(member) if self.ensemble.vary is not None else {}
        changed: dict[str, Any] = {}
        if "learning_rate" in own:
            changed["optimizer"] = self.optimizer.model_copy(update={"learning_rate": own["learning_rate"]})
        if "dropout" in own:
            changed["architecture"] = self.architecture.dropping(own["dropout"])
        if "alpha" in own:
            changed["regularizers"] = tuple(
                penalty.model_copy(update={"alpha": own["alpha"]}) if getattr(penalty, "alpha", None) is not None else penalty
                for penalty in self.regularizers
            )
        return self.model_copy(update=changed) if changed else self

    def inputs_of(self, description: Description) -> tuple[fields.Field, ...]:
        """A dataset's fields that are inputs: all but labels, and beside a reconstruction all but what the dataset declares as targets."""
        targets, used = self.targets or (), self.features.use or ()
        hidden = {target.name for target in targets if not target.from_inputs}
        if not description.guessed and any(target.from_inputs for target in targets):
            hidden |= {*description.targets} - {*used}
        return self.features.select(description.inputs(tuple(hidden)))

    @property
    def drawings(self) -> tuple[Architecture, ...]:
        """The members' architectures, each once: they differ in the rates of dropping that `ensemble.vary` has for them."""
        vary = self.ensemble.vary
        rates = vary.dropout[: self.ensemble.size] if vary is not None and vary.dropout is not None else ()
        return tuple(self.architecture.dropping(rate) for rate in rates) or (self.architecture,)

    @property
    def drops(self) -> bool:
        """Whether training drops units of any member."""
        return any(drawing.drops for drawing in self.drawings)

    @property
    def trains_on_validation(self) -> bool:
        """Whether validation rows are training rows in the end, so that nothing measured on them is of rows never seen."""
        return self.early_stopping is not None and self.early_stopping.goes_on

    @property
    def monitored(self) -> str | None:
        """The series that early stopping watches, with one target without the target's name; None where nothing is watched."""
        if self.early_stopping is None:
            return None
        targets, monitor = self.targets or (), self.early_stopping.monitor
        return f"validation.{monitor.removeprefix(f'{targets[0].name}.') if len(targets) == 1 else monitor}"


SIZES = ("epsilon", "severity")


class _SizesAside:
    """The schema of attacks as a robustness job has them: without an epsilon or a severity of their own."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        shown = handler(schema)
        kinds = [dict(handler.resolve_ref_schema(kind)) for kind in shown["items"]["oneOf"]]
        for kind in kinds:
            kind["properties"] = {name: field for name, field in kind["properties"].items() if name not in SIZES}
            kind["required"] = [name for name in kind.get("required", ()) if name not in SIZES]
        return {**shown, "items": {"oneOf": kinds}}


class RobustnessSpec(_Job, Asking):
    """Attacks on a stored model over the rows of a part of its dataset, at each epsilon."""

    kind: Literal["robustness"] = "robustness"
    """A robustness check."""
    model: Annotated[str, Field(examples=["digits"])]
    """Id, name, name:version or name@alias."""
    split: Literal["train", "validation", "test"] = "test"
    """The part whose rows are attacked."""
    rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Most rows: the first of the part."""
    attacks: Annotated[tuple[Attack, ...], ITEMS, AtMost(16), _SizesAside(), Field(min_length=1, examples=[[{"type": "fgsm"}]])]
    """The attacks, without epsilon."""
    epsilons: Annotated[tuple[Annotated[float, Field(ge=0, le=1e30)], ...], ITEMS, AtMost(64), Field(min_length=1, examples=[[0.0, 1.0]])]
    """Sizes of the perturbation, ascending, in the inputs' own unit; corruption has its five severities instead."""

    @model_validator(mode="before")
    @classmethod
    def _epsilons_belong_to_the_job(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("attacks"), list):
            return value
        for i, attack in enumerate(value["attacks"]):
            for name in SIZES if isinstance(attack, dict) else ():
                if name in attack:
                    raise refuse("unknown-field", "a robustness job has the sizes of all its attacks", pointer=f"/attacks/{i}/{name}")
        attacks = [{**attack, **smallest(attack.get("type"))} if isinstance(attack, dict) else attack for attack in value["attacks"]]
        return {**value, "attacks": attacks}

    @field_validator("epsilons")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(value)):
            raise refuse("value-out-of-range", "epsilons ascend")
        return value

    def dump(self) -> dict[str, Any]:
        """The spec as JSON types, in the form in which it is sent."""
        shown = super().dump()
        for attack in shown["attacks"]:
            for name in SIZES:
                attack.pop(name, None)
        return shown


JobSpec = Annotated[TrainSpec | RobustnessSpec, Field(discriminator="kind")]
