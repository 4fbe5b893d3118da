"""Attacks at once: rows in, what the deployed predictor says of them before and after, in the inputs' own units."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from service.data.encoding import Encoding
from service.errors import Flaw, Invalid, TooLarge, invalid
from service.flaws import pointer, quoted
from service.inference import reconstructing
from service.inference.aiming import LossOf, Predictor, aimed, check_attack
from service.inference.asking import ask, networks_asked
from service.inference.boxes import bounds_used, missing_row, placed
from service.inference.deployed import source_axes
from service.inference.model import Model
from service.inference.pools import Answer, Classes, Numbers
from service.inference.predicting import Form, classes, column
from service.inference.robustness import rows_at_once
from service.inference.rows import MOST_FLAWS, NUMBERS, category_text, finite, numbers, read_rows
from service.inference.units import run
from service.tricks.attacks import AnyAttack, Attack, Corruption
from service.tricks.modes import Asking, Axes
from service.tricks.norms import NORMS
from service.tricks.soft_labels import SLACK

MOST_PASSES, LEAST_AT_ONCE = 2_000_000, 64
"""Forward passes of one answer times rows times networks, which count as the second number at least: a pass of one row takes little less
time than one of so many. A robustness job has no such bound."""
MOST_NETWORKS = 2000
"""Networks whose graphs are held at once for a gradient."""


class AttackRequest(Asking):
    """Rows with their labels, the attack, and the predictor that it is made on."""

    inputs: list[Any]
    """Rows, as for a prediction."""
    labels: list[Any] | dict[str, list[Any]] | None = None
    """What is right for each row; by target where there are several. Of a reconstruction the rows themselves, and none are given."""
    attack: Attack
    """The attack."""


def answer(model: Model, request: AttackRequest, *, most_rows: int) -> dict[str, Any]:
    """The attack's answer without the model's id; raises Invalid, ModeUnavailable, TooLarge."""
    axes = request.axes(model)
    target, names = _target(model)
    rows = read_rows(request.inputs, model.encoding, most=most_rows)
    check_attack(request.attack, model, axes, target)
    _affordable(model, request.attack, axes, len(rows))
    x = torch.from_numpy(rows)
    labels = _truth(model, request, x)
    before = ask(model, x, axes)[target]
    box = placed(request.attack, model)
    loss_of = aimed(request.attack, Predictor(model, axes, target), labels, before)
    alive = ~loss_of.judge().broken(x)
    # A row that was wrong before is not attacked: its input comes back as it was.
    moved = x.clone()
    standing = alive.nonzero().squeeze(1)
    for chosen in standing.split(rows_at_once(model, axes)) if len(standing) else ():
        moved[chosen] = run(request.attack, x[chosen], loss_of.only(chosen), box, chosen).inputs
    after, form = ask(model, moved, axes)[target], _form(model, target)
    return {
        "mode": axes.mode,
        **echo(axes),
        "rows": len(rows),
        "attack": _resolved(request.attack, model),
        "targets": {target: {"clean": _said(before, names, form), "adversarial": _said(after, names, form)}},
        "success": _success(loss_of, moved, alive, isinstance(before, Numbers)),
        "inputs": decoded(moved, request.inputs, model.encoding, x),
        "perturbation": {name: norm.length((moved - x).double()).tolist() for name, norm in NORMS.items()},
    }


def _resolved(attack: AnyAttack, model: Model) -> dict[str, Any]:
    """The attack as it was made, with the bounds in force."""
    bounds = {} if isinstance(attack, Corruption) else {"bounds": bounds_used(attack, model.encoding)}
    return {**attack.resolved().dump(), **bounds}


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


def _affordable(model: Model, attack: AnyAttack, axes: Axes, rows: int) -> None:
    source = None if isinstance(attack, Corruption) else source_axes(attack.source, axes, model)
    networks = max(networks_asked(model, point) for point in (axes, source) if point is not None)
    if attack.passes * max(rows * networks, LEAST_AT_ONCE) > MOST_PASSES or networks > MOST_NETWORKS:
        raise TooLarge("This attack is too much work for one answer; post a job of kind robustness.", slug="cost-limit")


def _truth(model: Model, request: AttackRequest, x: Tensor) -> Tensor:
    """What is right of the target that is attacked: its labels, or of a reconstruction the rows themselves."""
    name, names = _target(model)
    place = [target.name for target in model.spec.targets or ()].index(name)
    target = (model.spec.targets or ())[place]
    if target.from_inputs:
        if request.labels is not None:
            raise invalid("/labels", "inconsistent-spec", "a reconstruction is judged by the rows themselves: it has no labels")
        return x.flatten(1)
    wanted, where = _wanted(request, name, len(x))
    if names is not None:
        return (_labels if target.calibrates else _shares)(wanted, names, where)
    return _values(wanted, model.networks[0].spec.widths[place], where)


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
        Flaw(f"{where}/{i}", "wrong-type", f"a number is needed, not {quoted(value)}") for i, value in plain if type(value) not in NUMBERS
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


def decoded(moved: Tensor, sent: list[Any], encoding: Encoding, x: Tensor) -> list[Any]:
    """Adversarial rows in the form of the request: arrays nested, tables as lists in the signature's order.

    A field whose entries became those of a missing one is null.
    """
    if encoding.array:
        return list(moved.tolist())
    blank, fields = missing_row(encoding)
    changed = (moved != x) & (moved == blank)
    names = [number.name for number in encoding.numeric] + [category.name for category in encoding.categorical]
    count = len(encoding.numeric)
    numbers, table = {name: i for i, name in enumerate(names[:count])}, moved.tolist()
    # A number that merely reached the mean is there; its indicator says that it is not, as a category's own columns do.
    gone = [{names[field] for field in set(fields[count:][row[count:]].tolist())} for row in changed]
    shown = []
    for i, row in enumerate(sent):
        values = row if isinstance(row, list) else [row[c.name] for c in encoding.inputs]
        pairs = zip(encoding.inputs, values, strict=True)
        shown.append([None if c.name in gone[i] else table[i][numbers[c.name]] if c.name in numbers else value for c, value in pairs])
    return shown
