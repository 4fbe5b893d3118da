"""A robustness job's result: curves with intervals, the worst case per row, and what broke each row."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from service.inference.boxes import bounds_used
from service.inference.model import Model
from service.tricks.attacks import AnyAttack, Corruption, GaussianNoise, Minimal
from service.tricks.ladder import RUNGS

Bools = NDArray[np.bool_]
Pieces = Sequence[dict[str, Any]]
WORST = {"absolute": "mae", "squared": "mse"}
"""What a result calls the bounds of errors: means over a row's outputs, and then over rows."""
SHOWN = ("type", "norm", "steps", "restarts", "loss", "targets", "queries", "target", "source", "unit")
"""Fields of an attack that a result repeats."""

NAMING = ("norm", "loss", "targets", "target", "source", "unit")
"""Fields that tell attacks of one type apart, beside its `type`."""
USUAL = {"targets": 0, "unit": "raw"}


def interval(right: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a share: exact binomial tails (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = float(betaincinv(right, rows - right + 1, tail)) if right else 0.0
    high = float(betaincinv(right + 1, rows - right, 1 - tail)) if right < rows else 1.0
    return low, high


def accuracy(right: Bools) -> dict[str, float]:
    """A share of rows with its interval."""
    low, high = interval(int(right.sum()), len(right))
    return {"accuracy": float(right.mean()), "low": low, "high": high}


def named(attack: Mapping[str, Any]) -> str:
    """An attack in few words."""
    more = [_word(key, attack[key]) for key in NAMING if attack.get(key) is not None and USUAL.get(key) != attack[key]]
    return " ".join([attack["type"].replace("_", " "), *more])


def _word(key: str, value: Any) -> str:
    if key == "source":
        return f"through member {value['members']}"
    return f"x {value}" if key == "targets" else f"to {value}" if key == "target" else f"{value}".replace("_", " ")


def combine(pieces: Pieces, attacks: Sequence[AnyAttack], epsilons: Sequence[float]) -> dict[str, Any]:
    """The result over all shards: clean, attacks, worst case per epsilon, and what broke each row at which epsilon."""
    right = np.array([r for part in pieces for r in part["right"]], dtype=bool)
    regression = pieces[0]["errors"] is not None
    # Severities are no epsilons: corruption stands beside the attacks, and in no worst case.
    within = [a for a, attack in enumerate(attacks) if not isinstance(attack, Corruption)]
    shown = [{**_fields(attack), **_curve(pieces, a, attack, epsilons, right=right)} for a, attack in enumerate(attacks)]
    clean = _rmse([error for part in pieces for error in part["errors"]]) if regression else accuracy(right)
    head = {"rows": len(right), "clean": clean, "attacks": shown}
    if regression:
        return {**head, "worst_case": _worst_errors(pieces, within, epsilons), "per_row": {"broken_at": [None] * len(right)}}
    standing = np.array([[_rows(pieces, a, e, "standing") for e in range(len(epsilons))] for a in within], dtype=bool)
    standing = standing.reshape(len(within), len(epsilons), len(right))
    worst = np.logical_and.accumulate(standing.all(axis=0), axis=0) & right
    cases = [{"epsilon": epsilon, **accuracy(worst[e])} for e, epsilon in enumerate(epsilons)] if within else []
    per_row = _first_broken(pieces, attacks, within, epsilons, worst) if within else {"broken_at": [None] * len(right)}
    minimal = next((a for a in within if isinstance(attacks[a], Minimal)), None)
    distances = {} if minimal is None else {"distance": _rows(pieces, minimal, 0, "distances")}
    return {**head, "worst_case": cases, "per_row": {**per_row, **distances}}


def certified(pieces: Pieces, attacks: Sequence[AnyAttack], epsilons: Sequence[float], refusal: str | None) -> dict[str, Any]:
    """What intervals verify: per epsilon the share of rows whose class nothing within it changes, and per row the largest such epsilon.

    Gaussian noise in linf leaves the ball: rows that it broke are not counted. Without bounds there is the reason in words. Of
    numbers see `_bounded`.
    """
    head = {"method": "interval_bounds", "norm": "linf", "reason": refusal}
    if refusal is not None:
        return {**head, "curve": None, "per_row": None}
    if pieces[0]["errors"] is not None:
        return {**head, **_bounded(pieces, attacks, epsilons)}
    rows = np.array([[held for part in pieces for held in part["verified"][e]] for e in range(len(epsilons))], dtype=bool)
    for a in [a for a, attack in enumerate(attacks) if isinstance(attack, GaussianNoise) and attack.norm == "linf"]:
        standing = np.array([_rows(pieces, a, e, "standing") for e in range(len(epsilons))], dtype=bool)
        rows &= np.logical_and.accumulate(standing, axis=0)
    points = [{"epsilon": epsilon, **accuracy(held)} for epsilon, held in zip(epsilons, rows, strict=True)]
    largest = [max((epsilon for epsilon, held in zip(epsilons, row, strict=True) if held), default=None) for row in rows.T]
    return {**head, "curve": [{**point, "verified_error": 1 - point["accuracy"]} for point in points], "per_row": largest}


def _bounded(pieces: Pieces, attacks: Sequence[AnyAttack], epsilons: Sequence[float]) -> dict[str, Any]:
    """Per epsilon the largest `mae`, `mse` and `rmse` over the rows that intervals allow, and per row `mae` and `mse` at each epsilon.

    Null where a row has no bound. Gaussian noise in linf leaves the ball: where it did worse, its error stands.
    """
    found = {name: [[error for part in pieces for error in part["verified"][e][name]] for e in range(len(epsilons))] for name in WORST}
    table = {short: np.array(found[name], dtype=float) for name, short in WORST.items()}  # null is not a number
    for a in [a for a, attack in enumerate(attacks) if isinstance(attack, GaussianNoise) and attack.norm == "linf"]:
        noise = np.maximum.accumulate([_rows(pieces, a, e, "errors") for e in range(len(epsilons))], axis=0)
        # The mean of absolute errors is at most the root of the mean of their squares.
        table = {"mae": np.maximum(table["mae"], np.sqrt(noise)), "mse": np.maximum(table["mse"], noise)}
    points = []
    for e, epsilon in enumerate(epsilons):
        means = {short: float(errors[e].mean()) for short, errors in table.items()}
        known = {**means, "rmse": math.sqrt(means["mse"])} if math.isfinite(means["mse"]) else dict.fromkeys((*means, "rmse"))
        points.append({"epsilon": epsilon, **known})
    rows = {
        short: [[None if math.isnan(error) else error for error in row] for row in errors.T.tolist()] for short, errors in table.items()
    }
    return {"curve": points, "per_row": rows}


def _fields(attack: AnyAttack) -> dict[str, Any]:
    return {key: value for key, value in attack.dump().items() if key in SHOWN and value is not None}


def _curve(pieces: Pieces, a: int, attack: AnyAttack, epsilons: Sequence[float], *, right: Bools) -> dict[str, Any]:
    """The points of one attack; for minimal distances their median and quartiles, over the rows that were right."""
    points = [_point(pieces, a, i, right=right) for i in range(len(attack.sizes(epsilons)))]
    if not isinstance(attack, Minimal):
        return {"curve": points}
    found = [distance for distance in _rows(pieces, a, 0, "distances") if distance is not None]
    quartiles = [float(value) for value in np.quantile(found, [0.25, 0.5, 0.75])] if found else [None] * 3
    return {"curve": points, "distance": dict(zip(("low", "median", "high"), quartiles, strict=True))}


def _rows(pieces: Pieces, attack: int, size: int, key: str) -> list[Any]:
    return [value for part in pieces for value in part["curves"][attack][size][key]]


def _point(pieces: Pieces, a: int, i: int, *, right: Bools) -> dict[str, Any]:
    parts = [part["curves"][a][i] for part in pieces]
    flat = [part["flat"] for part in parts if part["flat"] is not None]
    name = "severity" if "severity" in parts[0] else "epsilon"
    # A shard whose rows were all wrong before has climbed no rung.
    climbed = [rung for part in parts for rung in part.get("rungs", [-1] * len(part["standing"]))]
    rungs = {"rungs": _rungs(np.array(climbed), right)} if any("rungs" in part for part in parts) else {}
    return {
        name: parts[0][name],
        **(_rmse(_rows(pieces, a, i, "errors")) if "errors" in parts[0] else accuracy(np.array(_rows(pieces, a, i, "standing")) & right)),
        "largest": max(part["largest"] for part in parts),
        "zero_gradients": sum(flat) / max(1, int(right.sum())) if flat else None,
        **rungs,
    }


def _rungs(broken_by: NDArray[np.int64], right: Bools) -> dict[str, float]:
    """What is left standing after each rung of a ladder, as shares of all rows."""
    return {rung: float((right & ~((broken_by >= 0) & (broken_by <= i))).mean()) for i, rung in enumerate(RUNGS)}


def _first_broken(
    pieces: Pieces, attacks: Sequence[AnyAttack], within: list[int], epsilons: Sequence[float], worst: Bools
) -> dict[str, Any]:
    """Per row the smallest epsilon that broke it, the attack that did, its perturbation, and how far a training row of another class is."""
    ends, count = np.cumsum([0, *(len(part["right"]) for part in pieces)]), worst.shape[1]
    found: dict[str, list[Any]] = {name: [None] * count for name in ("broken_at", "broken_by", "perturbation", "nearest_other")}
    for row in range(count):
        found["broken_at"][row] = next((epsilon for e, epsilon in enumerate(epsilons) if not worst[e, row]), None)
    for start, part in zip(ends, pieces, strict=False):
        for e, epsilon in enumerate(epsilons):
            for a in within:
                for row, length, near in part["curves"][a][e].get("fell", ()):
                    place = int(start) + row
                    if found["broken_by"][place] is None and found["broken_at"][place] == epsilon:
                        found["broken_by"][place] = attacks[a].type
                        found["perturbation"][place], found["nearest_other"][place] = length, near
    return found


def _rmse(errors: Sequence[float]) -> dict[str, float]:
    return {"rmse": float(np.sqrt(np.mean(errors)))}


def _worst_errors(pieces: Pieces, within: Sequence[int], epsilons: Sequence[float]) -> list[dict[str, Any]]:
    """Per epsilon the root of the mean of each row's largest squared error at it and below."""
    if not within:
        return []
    table = np.array([[_rows(pieces, a, e, "errors") for e in range(len(epsilons))] for a in within])
    worst = np.maximum.accumulate(table.max(axis=0), axis=0)
    return [{"epsilon": epsilon, **_rmse(worst[i].tolist())} for i, epsilon in enumerate(epsilons)]


def bounds(attacks: Sequence[AnyAttack], model: Model) -> Any:
    """The bounds of the attacks: one answer where all agree, else one per attack; corruption has none."""
    used = [bounds_used(attack, model.encoding) for attack in attacks if not isinstance(attack, Corruption)]
    return (used[0] if used else None) if all(each == used[0] for each in used) else used
