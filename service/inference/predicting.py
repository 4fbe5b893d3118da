"""Answers as columns: what a prediction says of its rows, target by target."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from statistics import NormalDist
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from torch import Tensor

from service.errors import invalid, unavailable
from service.inference.alarms import RATE, anomalies
from service.inference.asking import ask
from service.inference.model import Model
from service.inference.pools import Classes, Numbers
from service.inference.reconstructing import codes, decoded, numeric, row_errors
from service.tricks.certification import Smoothing
from service.tricks.choices import AtMost
from service.tricks.modes import Asking, Axes
from service.values import ITEMS

Part = Literal["probabilities", "uncertainty", "members", "logits", "interval", "code", "error", "anomaly"]
REBUILT = {"code": "a code", "error": "errors", "anomaly": "anomalies"}
"""What only a reconstruction has."""
Names = tuple[str, ...]
Form = Callable[[Tensor | None], list[Any] | None]


class PredictRequest(Asking):
    """Rows, the predictor that is asked, and what it should say."""

    model_config = ConfigDict(serialize_by_alias=True)

    inputs: list[Any]
    """Rows: arrays in the signature's order or objects by field name."""
    parts: Annotated[Annotated[tuple[Part, ...], ITEMS, AtMost(8)] | None, Field(alias="return")] = None
    """What the answer says besides the prediction."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Of the interval."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = RATE
    """Of anomalies: the share of rows like the training rows that may be taken for them."""
    smoothing: Smoothing | None = None
    """The smoothed classifier: each row's class and certified radius under Gaussian noise; null: the predictor itself."""


def predict(
    model: Model, x: Tensor, axes: Axes, *, parts: Sequence[Part] | None = None, level: float = 0.9, false_alarm_rate: float = RATE
) -> dict[str, Any]:
    """The `targets` of an answer on encoded rows x [N, ...]; raises Invalid for a row so far out that the arithmetic overflows."""
    _check_parts(model, axes, parts or ())
    answers = ask(model, x, axes, keep=parts is not None and "members" in parts)
    shown: dict[str, Any] = {}
    for place, (target, names) in enumerate(zip(model.spec.targets or (), model.classes, strict=True)):
        answer = answers[target.name]
        _check_range(answer)
        if isinstance(answer, Numbers) and target.from_inputs:
            said = numbers(answer, _wanted(parts), level, form=partial(numeric, encoding=model.encoding))
            own: dict[str, Any] = {"prediction": decoded(answer.mean, model.encoding)}
            if "error" in _wanted(parts) or "anomaly" in _wanted(parts):
                scores = row_errors(answer, model, x, place)
                own |= {"error": scores.tolist()} if "error" in _wanted(parts) else {}
                own |= {"anomaly": anomalies(model, target, axes, scores, false_alarm_rate)} if "anomaly" in _wanted(parts) else {}
            own |= {"code": codes(model, x, axes)} if "code" in _wanted(parts) else {}
            shown[target.name] = said | own
        elif isinstance(answer, Classes) and names is not None:
            shown[target.name] = classes(answer, names, parts if parts is not None else ("probabilities", "uncertainty"))
        elif isinstance(answer, Numbers):
            shown[target.name] = numbers(answer, _wanted(parts), level, quantiles=target.quantiles)
    return shown


def _wanted(parts: Sequence[Part] | None) -> Sequence[str]:
    """What an answer in numbers says besides the prediction."""
    return parts if parts is not None else ("uncertainty",)


def listed(values: Tensor | None) -> list[Any] | None:
    """A column as JSON; null where it is unknown."""
    return values.tolist() if values is not None else None


def column(values: Tensor | None) -> list[Any] | None:
    """Rows [N, D] as JSON; with one output a number per row."""
    return listed(values.squeeze(-1) if values is not None and values.shape[-1] == 1 else values)


def _check_parts(model: Model, axes: Axes, parts: Sequence[str]) -> None:
    """Raises Invalid where the answer should have what only a reconstruction has, ModeUnavailable for codes of several members."""
    for i, part in enumerate(parts):
        if part in REBUILT and not any(target.from_inputs for target in model.spec.targets or ()):
            raise invalid(f"/return/{i}", "unknown-choice", f"only a model with a reconstruction has {REBUILT[part]}")
        if part == "code" and len(axes.members) > 1:
            message = 'Every member has a code of its own, with its own axes; ask one, as with "members": "best".'
            raise unavailable(f"/return/{i}", message)


def _check_range(answer: Classes | Numbers) -> None:
    """Raises Invalid at the first row whose answer is no number: JSON would have null for it."""
    said = [answer.probabilities] if isinstance(answer, Classes) else [answer.mean, *([] if answer.variance is None else [answer.variance])]
    for values in said:
        wrong = (~values.isfinite()).flatten(1).any(dim=1).nonzero()
        if len(wrong):
            raise invalid(f"/inputs/{int(wrong[0])}", "non-finite", "the answer to this row is beyond the range of the network's numbers")


def classes(answer: Classes, names: Names, parts: Sequence[str]) -> dict[str, Any]:
    """A classification target's columns."""
    shown: dict[str, Any] = {"prediction": [names[i] for i in answer.prediction.tolist()], "classes": list(names)}
    if "probabilities" in parts:
        shown["probabilities"] = answer.probabilities.tolist()
    if "uncertainty" in parts:
        shown["uncertainty"] = {name: listed(getattr(answer, name)) for name in ("total", "aleatoric", "epistemic", "agreement")}
    if "logits" in parts:
        shown["logits"] = answer.logits.tolist()
    if "members" in parts and answer.members is not None:
        shown["members"] = answer.members.transpose(0, 1).tolist()
    return shown


def numbers(
    answer: Numbers, parts: Sequence[str], level: float, *, quantiles: Sequence[float] | None = None, form: Form = column
) -> dict[str, Any]:
    """A target of numbers' columns, in its own unit; `quantiles` are the shares of those that the answer has.

    `form` gives a tensor [N, .., D] the form of JSON.
    """
    std = answer.variance.sqrt() if answer.variance is not None else None
    shown: dict[str, Any] = {"prediction": form(answer.mean)}
    if "uncertainty" in parts:
        shown["uncertainty"] = {
            "std": form(std),
            "aleatoric_std": form(_root(answer.aleatoric)),
            "epistemic_std": form(_root(answer.epistemic)),
        }
    if "interval" in parts:
        between = answer.quantiles is not None and quantiles is not None
        shown["interval"] = quantile_interval(answer, quantiles or (), level) if between else interval(answer.mean, std, level, form=form)
    if "members" in parts and answer.members is not None:
        mean, variance = answer.members.mean, answer.members.variance
        shown["members"] = {"prediction": form(_by_row(mean)), "std": form(_by_row(_root(variance)))}
    return shown


def interval(mean: Tensor, std: Tensor | None, level: float, *, form: Form = column) -> dict[str, Any]:
    """The central Gaussian interval; its ends are null where no spread is known."""
    reach = -NormalDist().inv_cdf((1 - level) / 2)
    ends = {"lower": None, "upper": None} if std is None else {"lower": form(mean - reach * std), "upper": form(mean + reach * std)}
    return {**ends, "level": level, "method": "gaussian"}


def quantile_interval(answer: Numbers, quantiles: Sequence[float], level: float) -> dict[str, Any]:
    """The interval between the two quantiles whose level is nearest to the wanted one, of equals the most central, with its own level.

    Its ends are null where there is one quantile.
    """
    pairs = list(combinations(range(len(quantiles)), 2))
    if answer.quantiles is None or not pairs:
        return {**interval(answer.mean, None, level), "method": "quantile"}

    def unlike(pair: tuple[int, int]) -> tuple[float, float]:
        low, high = (quantiles[place] for place in pair)
        return round(abs(high - low - level), 9), round(abs(low + high - 1), 9)

    low, high = min(pairs, key=unlike)
    ends = {"lower": column(answer.quantiles[..., low]), "upper": column(answer.quantiles[..., high])}
    return {**ends, "level": round(quantiles[high] - quantiles[low], 12), "method": "quantile"}


def _root(variance: Tensor | None) -> Tensor | None:
    return variance.sqrt() if variance is not None else None


def _by_row(values: Tensor | None) -> Tensor | None:
    """Networks' answers [M, N, D] with the row first."""
    return values.transpose(0, 1) if values is not None else None
