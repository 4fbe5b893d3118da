"""Attacks at once: rows in, what the deployed predictor says of them before and after, in the inputs' own units."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from service.data.encoding import ArrayInput, Encoding, NumericInput
from service.errors import Flaw, Invalid, TooLarge, invalid
from service.flaws import cut, pointer
from service.inference import reconstructing
from service.inference.asking import ask, networks_asked
from service.inference.deployed import Deployed, DeployedNumbers
from service.inference.model import Model
from service.inference.pools import Answer, Classes, Numbers
from service.inference.predicting import Form, classes, column
from service.inference.rows import MOST_FLAWS, NUMBERS, category_text, finite, numbers, read_rows
from service.tricks.attacks import Attack, Attacked, Box, LossOf
from service.tricks.modes import Asking, Axes
from service.tricks.norms import NORMS
from service.tricks.soft_labels import SLACK

MOST_PASSES = 2_000_000
"""Rows times forward passes times networks of one answer; a robustness job has no such bound."""
MOST_NETWORKS = 2000
"""Networks whose graphs are held at once for a gradient."""
BATCH_ROWS = 250


class AttackRequest(Asking):
    """Rows with their labels, the attack, and the predictor that it is made on."""

    inputs: list[Any]
    """Rows, as for a prediction."""
    labels: list[Any] | dict[str, list[Any]] | None = None
    """What is right for each row; by target where there are several. Of a reconstruction the rows themselves, and none are given."""
    attack: Attack
    """The attack."""


def box_of(attack: Attack, encoding: Encoding, *, where: str = "/attack") -> Box:
    """Bounds and movable entries of encoded rows; `"data"` is what the training rows spanned."""
    array = encoding.array
    if array is not None:
        if attack.immutable:
            raise invalid(f"{where}/immutable", "inconsistent-spec", "an image has no fields to keep")
        low, high = (array.low, array.high) if attack.bounds == "data" else attack.bounds or (None, None)
        return Box(torch.tensor(low), torch.tensor(high)) if low is not None and high is not None else Box()
    return _table_box(attack, encoding, where)


def _table_box(attack: Attack, encoding: Encoding, where: str) -> Box:
    """Numeric columns move within their own bounds; categories and indicators stay."""
    names = [number.name for number in encoding.numeric]
    known = [number.name for number in encoding.inputs]
    for i, name in enumerate(attack.immutable):
        if name not in known:
            raise invalid(f"{where}/immutable/{i}", "inconsistent-spec", f"there is no field {name!r}; there are {', '.join(known)}")
    movable = torch.zeros(encoding.shape)
    movable[: len(names)] = torch.tensor([float(name not in attack.immutable) for name in names])
    if attack.bounds is None:
        return Box(movable=movable)
    low, high = torch.zeros(encoding.shape), torch.ones(encoding.shape)
    for i, number in enumerate(encoding.numeric):
        low[i], high[i] = (number.low, number.high) if attack.bounds == "data" else attack.bounds
    return Box(low, high, movable)


def bounds_used(attack: Attack, encoding: Encoding) -> Any:
    """The bounds in force, by field; null for none."""
    if attack.bounds is None:
        return None
    if attack.bounds != "data":
        return list(attack.bounds)
    return {c.name: [c.low, c.high] for c in encoding.inputs if isinstance(c, NumericInput | ArrayInput)}


def answer(model: Model, request: AttackRequest, *, most_rows: int) -> dict[str, Any]:
    """The attack's answer without the model's id; raises Invalid, ModeUnavailable, TooLarge."""
    axes = request.axes(model)
    target, names = _target(model)
    rows = read_rows(request.inputs, model.encoding, most=most_rows)
    _affordable(model, request.attack, axes, len(rows))
    x = torch.from_numpy(rows)
    judged = _judge(model, request, axes, x)
    before = ask(model, x, axes)[target]
    box = box_of(request.attack, model.encoding)
    alive = ~judged.broken(x)
    # A row that was wrong before is not attacked: its input comes back as it was.
    moved = x.clone()
    standing = alive.nonzero().squeeze(1)
    for chosen in standing.split(BATCH_ROWS) if len(standing) else ():
        moved[chosen] = run(request.attack, x[chosen], judged.only(chosen), box).inputs
    after, form = ask(model, moved, axes)[target], _form(model, target)
    return {
        "mode": axes.mode,
        **echo(axes),
        "rows": len(rows),
        "attack": {**request.attack.resolved().dump(), "bounds": bounds_used(request.attack, model.encoding)},
        "targets": {target: {"clean": _said(before, names, form), "adversarial": _said(after, names, form)}},
        "success": _success(judged, moved, alive, isinstance(before, Numbers)),
        "inputs": decoded(moved, request.inputs, model.encoding),
        "perturbation": {name: norm.length((moved - x).double()).tolist() for name, norm in NORMS.items()},
    }


def run(attack: Attack, x: Tensor, loss_of: LossOf, box: Box) -> Attacked:
    """One attack on rows; epsilon 0 gives them back bit by bit."""
    return Attacked(x.clone()) if attack.epsilon == 0 else attack(x, loss_of, box)


def echo(axes: Axes) -> dict[str, Any]:
    """The resolved point on the axes, as every answer shows it."""
    weights = axes.weights if isinstance(axes.weights, str) else list(axes.weights)
    members = axes.members_name
    return {
        "members": members,
        "dropout": axes.dropout,
        "combine": axes.combine,
        "samples": axes.samples,
        "seed": axes.seed,
        "weights": weights,
    }


def _target(model: Model) -> tuple[str, tuple[str, ...] | None]:
    """The target that is attacked: the first classification target, else the first."""
    pairs = list(zip(model.spec.targets or (), model.classes, strict=True))
    found = next((pair for pair in pairs if pair[1] is not None), pairs[0])
    return found[0].name, found[1]


def _affordable(model: Model, attack: Attack, axes: Axes, rows: int) -> None:
    if rows * attack.passes * networks_asked(model, axes) > MOST_PASSES or networks_asked(model, axes) > MOST_NETWORKS:
        raise TooLarge("This attack is too much work for one answer; post a job of kind robustness.", slug="cost-limit")


def _judge(model: Model, request: AttackRequest, axes: Axes, x: Tensor) -> Deployed | DeployedNumbers:
    """The loss of the target that is attacked: what it says beside the labels, of a reconstruction beside the rows themselves."""
    name, names = _target(model)
    place = [target.name for target in model.spec.targets or ()].index(name)
    if (model.spec.targets or ())[place].from_inputs:
        if request.labels is not None:
            raise invalid("/labels", "inconsistent-spec", "a reconstruction is judged by the rows themselves: it has no labels")
        return DeployedNumbers(model, axes, name, x.flatten(1))
    wanted, where = _wanted(request, name, len(x))
    if names is not None:
        read = _labels if (model.spec.targets or ())[place].calibrates else _shares
        return Deployed(model, axes, name, read(wanted, names, where), request.attack.criterion)
    return DeployedNumbers(model, axes, name, _values(wanted, model.networks[0].spec.widths[place], where))


def _wanted(request: AttackRequest, target: str, rows: int) -> tuple[list[Any], str]:
    """The labels of that target, and the pointer to them."""
    where, labels = "/labels", request.labels
    if labels is None:
        raise invalid("/labels", "missing-field", "this field is required")
    if isinstance(labels, dict):
        if target not in labels:
            raise invalid("/labels", "missing-field", f"labels of the target {target!r} are required")
        where, labels = pointer("labels", target), labels[target]
    if len(labels) != rows:
        raise invalid(where, "shape-mismatch", f"{len(labels)} labels for {rows} rows")
    return labels, where


def _labels(wanted: list[Any], names: tuple[str, ...], where: str) -> Tensor:
    places = {name: i for i, name in enumerate(names)}
    flaws = [
        Flaw(f"{where}/{i}", "unknown-choice", f"a label is one of {', '.join(names[:20])}")
        for i, value in enumerate(wanted)
        if category_text(value) not in places
    ]
    if flaws:
        raise Invalid(flaws[:MOST_FLAWS])
    return torch.tensor([places[str(category_text(value))] for value in wanted])


def _shares(wanted: list[Any], names: tuple[str, ...], where: str) -> Tensor:
    """Distributions [N, C]: rows of probabilities, or for all rows the name of the class that has all."""
    if not any(isinstance(value, list) for value in wanted):
        return torch.nn.functional.one_hot(_labels(wanted, names, where), len(names)).float()
    shares = torch.from_numpy(finite(numbers(wanted, (len(names),), where, NUMBERS), where))
    wrong = ((shares < 0).any(-1) | ((shares.sum(-1) - 1).abs() > SLACK)).nonzero()
    if len(wrong):
        raise invalid(f"{where}/{int(wrong[0])}", "value-out-of-range", "probabilities are at least 0 and sum to 1")
    return shares


def _values(wanted: list[Any], width: int, where: str) -> Tensor:
    """Rows [N, D] of a regression target's labels; a single output's may be plain numbers."""
    plain = [(i, value) for i, value in enumerate(wanted) if width == 1 and not isinstance(value, list)]
    flaws = [
        Flaw(f"{where}/{i}", "wrong-type", f"a number is needed, not {cut(repr(value), 40)}")
        for i, value in plain
        if type(value) not in NUMBERS
    ]
    if flaws:
        raise Invalid(flaws[:MOST_FLAWS])
    rows = [[value] if width == 1 and not isinstance(value, list) else value for value in wanted]
    return torch.from_numpy(finite(numbers(rows, (width,), where, NUMBERS), where))


def _form(model: Model, target: str) -> Form:
    """How answers in numbers are shown: a reconstruction as a row."""
    mirrors = any(each.from_inputs for each in model.spec.targets or () if each.name == target)
    return partial(reconstructing.decoded, encoding=model.encoding) if mirrors else column


def _said(said: Answer, names: tuple[str, ...] | None, form: Form) -> dict[str, Any]:
    """Prediction and, for classes, probabilities."""
    if isinstance(said, Classes) and names is not None:
        return classes(said, names, ("probabilities",))
    return {"prediction": form(said.mean) if isinstance(said, Numbers) else []}


def _success(loss_of: LossOf, moved: Tensor, alive: Tensor, regression: bool) -> list[bool | None]:
    """Per row whether the attack changed the answer; null where it was wrong before, or is a number."""
    if regression:
        return [None] * len(moved)
    broken = loss_of.broken(moved)
    return [bool(fell) if attacked else None for fell, attacked in zip(broken, alive, strict=True)]


def decoded(moved: Tensor, sent: list[Any], encoding: Encoding) -> list[Any]:
    """Adversarial rows in the form of the request: arrays nested, tables as lists in the signature's order."""
    if encoding.array:
        return list(moved.tolist())
    numbers = {number.name: i for i, number in enumerate(encoding.numeric)}
    table = moved.tolist()
    shown = []
    for i, row in enumerate(sent):
        values = row if isinstance(row, list) else [row[c.name] for c in encoding.inputs]
        shown.append([table[i][numbers[c.name]] if c.name in numbers else value for c, value in zip(encoding.inputs, values, strict=True)])
    return shown
