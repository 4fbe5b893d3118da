"""The report: what was measured of a model, as JSON (api.md, report keys)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.checks import matching
from service.errors import TemperError
from service.inference.asking import ask
from service.inference.material import Material
from service.inference.measuring import Found, Rows, jsonable_object, measure, member_errors, temperature, variance_decomposition
from service.inference.model import Model
from service.inference.pools import Answer, Classes
from service.nets.network import weights_of
from service.tricks.modes import Asking, Axes, Mode
from service.tricks.optimization import SGD
from service.tricks.stopping import equivalent_l2

MODES: tuple[Mode, ...] = ("single", "weight_scaled", "monte_carlo", "exact", "ensemble")
Summary = dict[str, Any]


def default_axes(model: Model) -> Axes:
    """The point that answers when nothing is asked for."""
    return Asking().axes(model)


def build(model: Model, material: Material, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The whole report of a freshly trained model."""
    axes = default_axes(model)
    parts = {name: rows for name, rows in material.parts._asdict().items() if len(rows)}
    test = parts.get("test")
    splits = {name: measure(model, material, rows, axes) for name, rows in parts.items()}
    return jsonable_object(
        {
            "splits": {name: splits.get(name) for name in ("train", "validation", "test")},
            "modes": _modes(model, material, test) if test is not None else None,
            "members": _members(model, material, summaries, test),
            "early_stopping": _early_stopping(model, summaries[model.best]),
            "ensemble": _ensemble(model, material, test) if model.size > 1 and test is not None else None,
            "dropout": _dropout(model, material, test) if model.drops and test is not None else None,
            "calibration": _calibration(model, material, axes, splits.get("test")),
            "normalization": _normalization(material),
            "sparsity": _sparsity(model),
            "penalties": _penalties(model),
            "confusion_matrix": _confusion(model, material, axes, test) if test is not None else None,
            "invariance": _invariance(model, material, test) if test is not None else {},
        }
    )


def _modes(model: Model, material: Material, test: Rows) -> dict[str, Found]:
    """Metrics on test of every mode that this model has."""
    found: dict[str, Found] = {}
    for mode in MODES:
        try:
            found[mode] = measure(model, material, test, Asking(mode=mode).axes(model))
        except TemperError:
            # The mode is not this model's: no dropout, one member, or too many units to enumerate.
            continue
    return found


def _members(model: Model, material: Material, summaries: Sequence[Summary], test: Rows | None) -> list[dict[str, Any]]:
    """Each member by itself, weight-scaled on test."""
    shown = []
    for i, summary in enumerate(summaries):
        own = measure(model, material, test, Asking(members=i).axes(model)) if test is not None else {}
        kept = ("member", "best", "best_epoch", "best_step", "stopped_epoch", "stop_reason")
        shown.append({**own, **{key: summary[key] for key in kept}})
    return shown


def _early_stopping(model: Model, summary: Summary) -> dict[str, Any] | None:
    """The best member's stopping point; null where nothing was monitored."""
    if model.spec.early_stopping is None:
        return None
    optimizer = model.spec.optimizer
    plain = isinstance(optimizer, SGD) and optimizer.momentum == 0
    return {
        "best_epoch": summary["best_epoch"],
        "best_step": summary["best_step"],
        "stopped_epoch": summary["stopped_epoch"],
        "reason": summary["stop_reason"],
        # 1 / (2 eta tau), where eta lam tau is much below 1; it says nothing of momentum or Adam.
        "equivalent_l2": equivalent_l2(summary["best_step"], optimizer.learning_rate) if plain else None,
    }


def _ensemble(model: Model, material: Material, test: Rows) -> dict[str, Any] | None:
    """The formula of the ensemble's error beside the measured one, for the first target."""
    target = (model.spec.targets or ())[0]
    x, _ = material.rows(test)
    errors = member_errors(ask(model, x.float(), Asking(members="all").axes(model), keep=True)[target.name], target, material, test)
    if errors is None:
        return None
    return {"error": errors[0], **variance_decomposition(errors[1]), "out_of_bag": _out_of_bag(model, material)}


def _out_of_bag(model: Model, material: Material) -> float | None:
    """The error of training rows averaged over the members that did not see them; null without bagging."""
    spec, train = model.spec, material.parts.train
    if not spec.ensemble.bootstrap:
        return None
    target = (spec.targets or ())[0]
    x, _ = material.rows(train)
    found = member_errors(ask(model, x.float(), Asking(members="all").axes(model), keep=True)[target.name], target, material, train)
    labels = material.labels[target.name][torch.from_numpy(train)]
    known = (~target.missing(labels)).numpy()
    unseen = np.stack([~np.isin(train[known], spec.ensemble.rows(i, train, seed=spec.seed)) for i in range(model.size)])
    covered = unseen.any(axis=0)
    if found is None or not covered.any():
        return None
    errors, out = found[1][:, covered], unseen[:, covered].astype(np.float64)
    weights = (out / out.sum(axis=0)).reshape(*out.shape, *[1] * (errors.ndim - 2))
    return float(((errors * weights).sum(axis=0) ** 2).sum() / covered.sum())


def _dropout(model: Model, material: Material, test: Rows) -> dict[str, Any]:
    """Weight scaling beside the arithmetic and the geometric mean of 50 masks; the gap is the mean |difference|."""
    target = (model.spec.targets or ())[0]
    x = material.rows(test)[0].float()
    scaled, sampled = Asking(members="best").axes(model), Asking(mode="monte_carlo").axes(model)
    one, many = ask(model, x, scaled)[target.name], ask(model, x, sampled)[target.name]
    geometric = None if model.regression else measure(model, material, test, sampled._replace(combine="geometric"))
    return {
        "weight_scaled": measure(model, material, test, scaled),
        "arithmetic": measure(model, material, test, sampled),
        "geometric": geometric,
        "gap": float((center(one) - center(many)).abs().mean()),
    }


def _calibration(model: Model, material: Material, axes: Axes, test: Found | None) -> dict[str, Any] | None:
    """Calibration of the default mode on test, and the temperature that validation rows ask for."""
    target = (model.spec.targets or ())[0]
    if target.task != "classification":
        return None
    found = None
    validation = material.parts.validation
    if len(validation):
        x, labels = material.rows(validation)
        answer = ask(model, x.float(), axes)[target.name]
        found = temperature(answer.logits, labels[target.name]) if isinstance(answer, Classes) else None
    prefix = "" if len(model.spec.targets or ()) == 1 else f"{target.name}."
    return {**{name: (test or {}).get(prefix + name) for name in ("ece", "nll", "brier")}, "temperature": found}


def _normalization(material: Material) -> dict[str, Any]:
    """What inputs and targets were shifted and divided by, in their own units."""
    names = ("min", "range") if material.spec.preprocessing.normalize == "minmax" else ("mean", "std")
    shift, scale = material.preprocess.shift, material.preprocess.scale
    if material.encoding.array:
        found: dict[str, Any] = {material.encoding.array.name: {names[0]: shift.squeeze().tolist(), names[1]: scale.squeeze().tolist()}}
    else:
        shift, scale = shift.expand(material.encoding.shape), scale.expand(material.encoding.shape)
        found = {c.name: {names[0]: float(shift[i]), names[1]: float(scale[i])} for i, c in enumerate(material.encoding.numeric)}
    for target, own in zip(material.spec.targets or (), material.scales, strict=True):
        if target.task == "regression":
            found[target.name] = {"mean": own.mean.squeeze().tolist(), "std": own.std.squeeze().tolist()}
    return found


def _sparsity(model: Model) -> dict[str, float]:
    """The share of weights that are exactly 0, by layer, mean over members."""
    shares: dict[str, float] = {}
    for network in model.networks:
        for name in network.layers():
            weights = weights_of(network, [name], everything=False)
            zeros = sum(int((weight == 0).sum()) for weight in weights) / max(1, sum(weight.numel() for weight in weights))
            shares[name] = shares.get(name, 0.0) + zeros / model.size
    return shares


def _penalties(model: Model) -> dict[str, float]:
    """Each penalty's part of the objective at the kept weights, mean over members."""
    found: dict[str, float] = {}
    for network in model.networks:
        for penalty in model.spec.regularizers:
            layers = matching(penalty.layers, list(network.layers()), spare_heads=penalty.spares_heads)
            value = float(penalty.value(weights_of(network, layers, everything=penalty.parameters == "all")))
            found[penalty.type] = found.get(penalty.type, 0.0) + value / model.size
    return found


def _confusion(model: Model, material: Material, axes: Axes, test: Rows) -> dict[str, Any] | None:
    """Counts of test rows: rows of the matrix are true classes, columns predicted ones."""
    for target, names in zip(model.spec.targets or (), model.classes, strict=True):
        if names is None:
            continue
        x, labels = material.rows(test)
        answer = ask(model, x.float(), axes)[target.name]
        if isinstance(answer, Classes):
            truth, predicted = labels[target.name].numpy(), answer.prediction.numpy()
            known = truth >= 0
            counts = np.zeros((len(names), len(names)), dtype=int)
            np.add.at(counts, (truth[known], predicted[known]), 1)
            return {"target": target.name, "classes": list(names), "matrix": counts.tolist()}
    return None


def _invariance(model: Model, material: Material, test: Rows) -> dict[str, float]:
    """For each augmentation the mean |f(Tx) - f(x)| of the best member on test."""
    axes = Asking(members="best").axes(model)
    x = material.rows(test)[0].float()
    name = (model.spec.targets or ())[0].name
    before = ask(model, x, axes)[name]
    found: dict[str, float] = {}
    for transform in model.spec.augmentation:
        after = ask(model, transform(x, torch.Generator().manual_seed(0)), axes)[name]
        found[transform.type] = float((center(after) - center(before)).abs().mean())
    return found


def center(answer: Answer) -> Tensor:
    """What an answer says in one tensor: probabilities or means."""
    return answer.probabilities if isinstance(answer, Classes) else answer.mean
