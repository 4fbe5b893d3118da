"""How a model is asked: which members, what becomes of dropout, and how answers are combined."""

import math
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BeforeValidator, Field

from service.errors import invalid, unavailable
from service.tricks.choices import refuse
from service.values import Seed, Value

Mode = Literal["single", "weight_scaled", "monte_carlo", "exact", "ensemble"]
DropoutAxis = Literal["weight_scaled", "monte_carlo", "exact", "sampled"]
Combine = Literal["arithmetic", "geometric", "vote"]
EXACT_UNITS = 16

MEANINGS: dict[Mode, str] = {
    "single": "One network, the best on validation, in one forward pass.",
    "weight_scaled": "The same numbers, asserting that dropout's weight scaling inference rule applies.",
    "monte_carlo": "The average over sampled dropout masks of the best network: dropout as bagging.",
    "exact": "The average over every dropout mask, for at most 16 droppable units.",
    "ensemble": "The average over all members.",
}
_POINTS: dict[Mode, tuple[Literal["best", "all"], DropoutAxis]] = {
    "single": ("best", "weight_scaled"),
    "weight_scaled": ("best", "weight_scaled"),
    "monte_carlo": ("best", "monte_carlo"),
    "exact": ("best", "exact"),
    "ensemble": ("all", "weight_scaled"),
}


def _members(value: Any) -> Any:
    if value is None or value in ("best", "all") or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise refuse("unknown-choice", 'members are "best", "all" or an index')


def _weights(value: Any) -> Any:
    if value in ("model", "equal"):
        return value
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in value)
    if numbers and 0 < sum(value) < math.inf:
        return tuple(float(v) for v in value)
    raise refuse("value-out-of-range", 'weights are "model", "equal" or numbers >= 0, one for each network asked')


class Asked(Protocol):
    """What a mode needs to know of a model."""

    @property
    def size(self) -> int:
        """Members."""
        ...

    @property
    def best(self) -> int:
        """The index of the best member."""
        ...

    @property
    def drops(self) -> bool:
        """Whether units were dropped in training."""
        ...

    @property
    def classifies(self) -> bool:
        """Whether any target has classes."""
        ...

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The members' weights, where they were chosen."""
        ...


class Axes(NamedTuple):
    """The point on both axes that answers: member indices, what becomes of dropout, and how to combine."""

    mode: str
    members: tuple[int, ...]
    members_name: str | int
    dropout: DropoutAxis
    combine: Combine
    samples: int
    seed: int
    weights: str | tuple[float, ...]
    shares: tuple[float, ...] = ()
    """The model's weights of the members, where it has some and they are asked for."""

    @property
    def random(self) -> bool:
        """Whether another seed gives another answer."""
        return self.dropout in ("monte_carlo", "sampled")

    @property
    def masked_by(self) -> str:
        """The pointer to the field of the request that says what becomes of dropout."""
        return "/dropout" if self.mode == "custom" else "/mode"


class Asking(Value):
    """The fields of a request that choose the predictor; `mode` and the axes exclude each other."""

    mode: Mode | None = None
    """A named point on the axes; null: ensemble for several members, else single."""
    members: Annotated[Annotated[int, Field(ge=0)] | Literal["best", "all"] | None, BeforeValidator(_members)] = None
    """"best", "all" or an index."""
    dropout: DropoutAxis | None = None
    """What becomes of dropout."""
    combine: Combine = "arithmetic"
    """How probabilities of classes are averaged; numbers have the arithmetic mean."""
    samples: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Masks per member under monte_carlo."""
    seed: Seed = 0
    """Of the masks."""
    weights: Annotated[Literal["model", "equal"] | tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_weights)] = "model"
    """Of the networks asked: those of the model, equal ones, or a list."""

    def axes(self, model: Asked) -> Axes:
        """The resolved point; raises Invalid or ModeUnavailable where this model has none."""
        if self.mode is not None and (self.members is not None or self.dropout is not None):
            raise invalid("/mode", "inconsistent-spec", "mode and the axes members, dropout exclude each other")
        mode, members, dropout = self._point(model)
        chosen = _chosen(members, model)
        if mode == "ensemble" and model.size == 1:
            raise unavailable("/mode", "The model has one member; ask single, or members: all.")
        if not model.drops and (mode == "weight_scaled" or dropout in ("monte_carlo", "exact", "sampled")):
            raise unavailable("/dropout" if mode == "custom" else "/mode", "The network was trained without dropout.")
        if not model.classifies and self.combine != "arithmetic":
            raise unavailable("/combine", f"{self.combine} combines class probabilities; numbers have the arithmetic mean.")
        found = Axes(mode, chosen, members, dropout, self.combine, self.samples, self.seed, self.weights)
        if members != "all" or self.weights != "model" or model.weights is None:
            return found
        # Who has no weight is not asked.
        asked = tuple(i for i in chosen if model.weights[i] > 0)
        return found._replace(members=asked, shares=tuple(model.weights[i] for i in asked))

    def _point(self, model: Asked) -> tuple[str, str | int, DropoutAxis]:
        if self.members is not None or self.dropout is not None:
            default = "all" if model.size > 1 else "best"
            return "custom", self.members if self.members is not None else default, self.dropout or "weight_scaled"
        mode: Mode = self.mode or ("ensemble" if model.size > 1 else "single")
        members, dropout = _POINTS[mode]
        return mode, members, dropout


def _chosen(members: str | int, model: Asked) -> tuple[int, ...]:
    if members == "all":
        return tuple(range(model.size))
    if members == "best":
        return (model.best,)
    if isinstance(members, int) and 0 <= members < model.size:
        return (members,)
    raise invalid("/members", "value-out-of-range", f"the model has members 0 to {model.size - 1}")
