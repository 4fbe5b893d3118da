"""Robustness of a model over the rows of a part: curves with intervals, the worst case per row, and checks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from service.inference.asking import ask, quiet
from service.inference.attacking import bounds_used, box_of, run
from service.inference.deployed import Deployed, DeployedNumbers
from service.inference.model import Model
from service.inference.pools import Classes, Numbers
from service.seeds import derive
from service.tricks.attacks import Attack
from service.tricks.modes import Axes
from service.tricks.targets import agrees

BATCH_ROWS = 250
Bools = NDArray[np.bool_]


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


class Subject:
    """A model under attack: labelled rows of one part from number `first` on, on one point of its axes.

    `beat` is called before each pass.
    """

    def __init__(self, model: Model, axes: Axes, x: Tensor, labels: Tensor, *, first: int = 0, beat: Callable[[], None] = quiet) -> None:
        self.first = first
        self.beat = beat
        self.model = model
        self.axes = axes
        self.x = x
        self.labels = labels
        self.target = (model.spec.targets or ())[0].name
        answer = ask(model, x, axes, beat=beat)[self.target]
        self.truth = labels.argmax(-1) if isinstance(answer, Classes) and labels.is_floating_point() else labels
        """The class that counts as right, or the number."""
        self.right = agrees(answer.prediction, labels) if isinstance(answer, Classes) else torch.ones(len(x), dtype=torch.bool)
        self.clean = answer

    def loss(self, chosen: Tensor, criterion: str) -> Deployed | DeployedNumbers:
        """The deployed loss of some rows."""
        if isinstance(self.clean, Classes):
            return Deployed(self.model, self.axes, self.target, self.labels[chosen], criterion, beat=self.beat)
        return DeployedNumbers(self.model, self.axes, self.target, self.labels[chosen], beat=self.beat)

    def attack(self, attack: Attack) -> tuple[Tensor, Tensor, Tensor | None]:
        """Perturbed rows, rows still right [N], and rows without gradient [N] (of those attacked; None for noise)."""
        moved, standing = self.x.clone(), self.right.clone()
        flat = torch.zeros(len(self.x), dtype=torch.bool)
        box = box_of(attack, self.model.encoding)
        found = None
        rows = self.right.nonzero().squeeze(1)
        for chosen in rows.split(BATCH_ROWS) if len(rows) else ():
            loss_of = self.loss(chosen, attack.criterion)
            # A stream per batch: with one seed for all, every batch would see the same noise.
            drawn = attack.model_copy(update={"seed": derive(attack.seed, self.first + int(chosen[0]), "attack")})
            result = run(drawn, self.x[chosen], loss_of, box)
            moved[chosen] = result.inputs
            standing[chosen] = ~loss_of.broken(result.inputs)
            if result.zero_gradients is not None:
                flat[chosen] = found = result.zero_gradients
        return moved, standing, flat if found is not None else None

    def errors(self, x: Tensor) -> list[float]:
        """Squared errors of a regression target, mean over its outputs."""
        answer = ask(self.model, x, self.axes, beat=self.beat)[self.target]
        if not isinstance(answer, Numbers):
            raise TypeError("classes have no squared error")
        return list((answer.mean - self.labels).square().mean(-1).tolist())


def curve(subject: Subject, attack: Attack, epsilons: Sequence[float]) -> list[dict[str, Any]]:
    """Per epsilon what one attack left standing, row by row: the piece of a result that one shard contributes."""
    points = []
    for epsilon in epsilons:
        sized = attack.model_copy(update={"epsilon": epsilon})
        moved, standing, flat = subject.attack(sized)
        point: dict[str, Any] = {
            "epsilon": epsilon,
            "standing": standing.tolist(),
            "largest": float(sized.ball.length(moved - subject.x).max()) if len(moved) else 0.0,
            "flat": int(flat.sum()) if flat is not None else None,
        }
        if isinstance(subject.clean, Numbers):
            point["errors"] = subject.errors(moved)
        points.append(point)
    return points


def piece(subject: Subject, attacks: Sequence[Attack], epsilons: Sequence[float]) -> dict[str, Any]:
    """What one shard of rows contributes."""
    return {
        "right": subject.right.tolist(),
        "errors": subject.errors(subject.x) if isinstance(subject.clean, Numbers) else None,
        "curves": [curve(subject, attack, epsilons) for attack in attacks],
    }


def combine(pieces: Sequence[dict[str, Any]], attacks: Sequence[Attack], epsilons: Sequence[float]) -> dict[str, Any]:
    """The result over all shards: clean, attacks, worst case per epsilon, and the epsilon that breaks each row."""
    right = np.array([r for part in pieces for r in part["right"]], dtype=bool)
    regression = pieces[0]["errors"] is not None
    standing = np.array([[_rows(pieces, a, e, "standing") for e in range(len(epsilons))] for a in range(len(attacks))], dtype=bool)
    worst = np.logical_and.accumulate(standing.all(axis=0), axis=0) & right
    shown = []
    for a, attack in enumerate(attacks):
        points = [_point(pieces, a, e, epsilon, right=right, regression=regression) for e, epsilon in enumerate(epsilons)]
        fields = {key: value for key, value in attack.dump().items() if key in ("type", "norm", "steps", "restarts", "loss")}
        shown.append({**fields, "curve": points})
    first = [next((epsilon for e, epsilon in enumerate(epsilons) if not worst[e, row]), None) for row in range(len(right))]
    return {
        "rows": len(right),
        "clean": _rmse([error for part in pieces for error in part["errors"]]) if regression else accuracy(right),
        "attacks": shown,
        "worst_case": _worst_errors(pieces, attacks, epsilons)
        if regression
        else [{"epsilon": e, **accuracy(worst[i])} for i, e in enumerate(epsilons)],
        "broken_at": [None] * len(right) if regression else first,
    }


def _rows(pieces: Sequence[dict[str, Any]], attack: int, epsilon: int, key: str) -> list[Any]:
    return [value for part in pieces for value in part["curves"][attack][epsilon][key]]


def _point(pieces: Sequence[dict[str, Any]], attack: int, e: int, epsilon: float, *, right: Bools, regression: bool) -> dict[str, Any]:
    parts = [part["curves"][attack][e] for part in pieces]
    found = _rmse(_rows(pieces, attack, e, "errors")) if regression else accuracy(np.array(_rows(pieces, attack, e, "standing")) & right)
    flat = [part["flat"] for part in parts if part["flat"] is not None]
    return {
        "epsilon": epsilon,
        **found,
        "largest": max(part["largest"] for part in parts),
        "zero_gradients": sum(flat) / max(1, int(right.sum())) if flat else None,
    }


def _rmse(errors: Sequence[float]) -> dict[str, float]:
    return {"rmse": float(np.sqrt(np.mean(errors)))}


def _worst_errors(pieces: Sequence[dict[str, Any]], attacks: Sequence[Attack], epsilons: Sequence[float]) -> list[dict[str, Any]]:
    """Per epsilon the root of the mean of each row's largest squared error at it and below."""
    table = np.array([[_rows(pieces, a, e, "errors") for e in range(len(epsilons))] for a in range(len(attacks))])
    worst = np.maximum.accumulate(table.max(axis=0), axis=0)
    return [{"epsilon": epsilon, **_rmse(worst[i].tolist())} for i, epsilon in enumerate(epsilons)]


def bounds(attacks: Sequence[Attack], model: Model) -> Any:
    """The bounds of the attacks: one answer where all agree, else one per attack."""
    used = [bounds_used(attack, model.encoding) for attack in attacks]
    return used[0] if all(each == used[0] for each in used) else used
