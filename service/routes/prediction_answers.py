"""The shapes of answers to predictions, attacks and projections: columns, with the row first. Declared for OpenAPI; orjson writes them."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from service.routes.answers import Answer
from service.tricks.certification import Smoothing

T = TypeVar("T")


def _undefaulted(schema: dict[str, Any]) -> None:
    del schema["default"]


# A key that is absent where nothing was asked for; it is never null.
Wanted = Annotated[T | SkipJsonSchema[None], Field(json_schema_extra=_undefaulted)]
Column = list[float] | list[list[float]]
"""A number per row, or several where the target has several."""


class ClassUncertainty(BaseModel):
    """Entropies in nats; null what one network cannot know."""

    total: list[float]
    aleatoric: list[float]
    epistemic: list[float] | None
    agreement: list[float] | None


class NumberUncertainty(BaseModel):
    """Standard deviations in the target's unit; null what is not known."""

    std: Column | None
    aleatoric_std: Column | None
    epistemic_std: Column | None


class IntervalAnswer(BaseModel):
    """The central Gaussian interval at a level, or one between two quantiles; its ends are null where no spread is known."""

    lower: Column | None
    upper: Column | None
    level: float
    method: Literal["gaussian", "quantile"]


class NumberMembers(BaseModel):
    """What every network said [N][M]."""

    prediction: list[list[float]] | list[list[list[float]]]
    std: list[list[float]] | list[list[list[float]]] | None


Rows = list[list[Any]]
"""Rows as they were sent: arrays nested, tables in the signature's order, null for what has no number."""


class MirrorUncertainty(BaseModel):
    """Standard deviations of a reconstruction's entries; null what is not known."""

    std: Rows | None
    aleatoric_std: Rows | None
    epistemic_std: Rows | None


class MirrorInterval(BaseModel):
    """The central interval of a reconstruction's entries."""

    lower: Rows | None
    upper: Rows | None
    level: float
    method: Literal["gaussian"]


class MirrorMembers(BaseModel):
    """What every network said [N][M], each in the form of a row."""

    prediction: list[Rows]
    std: list[Rows] | None


class AnomalyAnswer(BaseModel):
    """Which rows are rebuilt worse than all but a share of the validation rows."""

    anomalous: list[bool]
    threshold: float
    """Of `error`."""
    false_alarm_rate: float
    validation_rows: int


class ClassTarget(BaseModel):
    """A classification target; what was not asked for is absent."""

    prediction: list[str]
    classes: list[str]
    probabilities: Wanted[list[list[float]]] = None
    uncertainty: Wanted[ClassUncertainty] = None
    logits: Wanted[list[list[float]]] = None
    members: Wanted[list[list[list[float]]]] = None


class SmoothedTarget(BaseModel):
    """A smoothed classification target: the class and its L2 radius in the inputs' own unit, both null where it abstains."""

    prediction: list[str | None]
    classes: list[str]
    radius: list[float | None]
    probability_lower: list[float]


class NumberTarget(BaseModel):
    """A regression target; what was not asked for is absent."""

    prediction: Column
    uncertainty: Wanted[NumberUncertainty] = None
    interval: Wanted[IntervalAnswer] = None
    members: Wanted[NumberMembers] = None


class MirrorTarget(BaseModel):
    """A reconstruction, in the form of the rows that were sent; what was not asked for is absent."""

    prediction: Rows
    uncertainty: Wanted[MirrorUncertainty] = None
    interval: Wanted[MirrorInterval] = None
    members: Wanted[MirrorMembers] = None
    code: Wanted[list[list[float]]] = None
    error: Wanted[list[float]] = None
    anomaly: Wanted[AnomalyAnswer] = None


class _Asked(Answer):
    """Which model answered, and at which point on its axes."""

    model: str
    name: str
    version: int
    mode: str
    members: int | str
    dropout: str
    combine: str
    samples: int
    seed: int
    weights: str | list[float]
    rows: int


class PredictionAnswer(_Asked):
    """What the model says of the rows, by target; `smoothing` where it was asked for."""

    targets: dict[str, ClassTarget | SmoothedTarget | NumberTarget | MirrorTarget]
    smoothing: Wanted[Smoothing] = None


class AttackedTarget(BaseModel):
    """What was said before and after."""

    clean: ClassTarget | NumberTarget | MirrorTarget
    adversarial: ClassTarget | NumberTarget | MirrorTarget


class Perturbation(BaseModel):
    """The size of each row's change, in the inputs' own units."""

    linf: list[float]
    l2: list[float]
    l1: list[float]


class ProjectionAnswer(Answer):
    """What of each row the asked channels answer to: their numbers, where in their maps they are strongest, how strong, projections."""

    model: str
    name: str
    version: int
    members: int
    layer: str
    shape: list[int]
    rectify: bool
    rows: int
    channels: list[list[int]]
    places: list[list[list[int]]]
    values: list[list[float]]
    projections: list[Rows]


class AttackAnswer(_Asked):
    """The attack as it was made, and what it did to each row; `success` is null where the row was wrong before."""

    attack: dict[str, Any]
    targets: dict[str, AttackedTarget]
    success: list[bool | None]
    inputs: list[Any]
    perturbation: Perturbation
