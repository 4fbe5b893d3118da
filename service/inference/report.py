"""The report: what was measured of a model, as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.checks import matching
from service.errors import TemperError
from service.inference.asking import ask, check_axes, droppable
from service.inference.material import Material
from service.inference.measuring import Found, Inquiry, jsonable_object, member_errors, temperature, variance_decomposition
from service.inference.model import Model
from service.inference.pools import Answer, Classes
from service.nets.network import weights_of
from service.tricks.modes import Asking, Axes, Mode
from service.tricks.optimization import SGD
from service.tricks.stopping import equivalent_l2

MODES: tuple[Mode, ...] = ("single", "weight_scaled", "monte_carlo", "exact", "ensemble")
Summary = dict[str, Any]
MOST_EXACT = 2_000_000
"""Rows times masks that the report takes time for; beyond, the mode is there to be asked and not in the report."""


def default_axes(model: Model) -> Axes:
    """The point that answers when nothing is asked for."""
    return Asking().axes(model)


def build(inquiry: Inquiry, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The whole report of a freshly trained model."""
    model, material = inquiry.model, inquiry.material
    axes = default_axes(model)
    tested = "test" in inquiry.parts
    splits = {name: inquiry.measure(name, axes) for name in inquiry.parts}
    return jsonable_object(
        {
            "splits": {name: splits.get(name) for name in ("train", "validation", "test")},
            "modes": _modes(inquiry) if tested else None,
            "members": _members(inquiry, summaries),
            "early_stopping": _early_stopping(model, summaries[model.best]),
            "ensemble": _ensemble(inquiry, [summary["member"] for summary in summaries]) if model.size > 1 and tested else None,
            "dropout": _dropout(inquiry) if model.drops and tested else None,
            "calibration": _calibration(inquiry, axes, splits.get("test")),
            "normalization": _normalization(material),
            "sparsity": _sparsity(model),
            "penalties": _penalties(model),
            "confusion_matrix": _confusion(inquiry, axes) if tested else None,
            "invariance": _invariance(inquiry) if tested else {},
        }
    )


def _modes(inquiry: Inquiry) -> dict[str, Found]:
    """Metrics on test of every mode that this model has."""
    found: dict[str, Found] = {}
    for mode in MODES:
        try:
            axes = Asking(mode=mode).axes(inquiry.model)
            check_axes(inquiry.model, axes)
            if mode == "exact" and len(inquiry.parts["test"]) * 2 ** droppable(inquiry.model) > MOST_EXACT:
                continue
        except TemperError:
            # The mode is not this model's: no dropout, one member, or too many units to enumerate.
            continue
        found[mode] = inquiry.measure("test", axes)
    return found


def _members(inquiry: Inquiry, summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Each member by itself, weight-scaled on test."""
    shown = []
    for i, summary in enumerate(summaries):
        own = inquiry.measure("test", Asking(members=i).axes(inquiry.model)) if "test" in inquiry.parts else {}
        kept = ("member", "best", "best_epoch", "best_step", "stopped_epoch", "stop_reason")
        vary = inquiry.model.spec.ensemble.vary
        shown.append({**own, **{key: summary[key] for key in kept}, "vary": vary.values(summary["member"]) if vary is not None else None})
    return shown


def _early_stopping(model: Model, summary: Summary) -> dict[str, Any] | None:
    """The best member's stopping point; null where nothing was monitored."""
    if model.spec.early_stopping is None:
        return None
    optimizer = model.spec_of(model.best).optimizer
    plain = isinstance(optimizer, SGD) and optimizer.momentum == 0
    return {
        "best_epoch": summary["best_epoch"],
        "best_step": summary["best_step"],
        "stopped_epoch": summary["stopped_epoch"],
        "reason": summary["stop_reason"],
        # 1 / (2 eta tau), where eta lam tau is much below 1; it says nothing of momentum or Adam.
        "equivalent_l2": equivalent_l2(summary["best_step"], optimizer.learning_rate) if plain else None,
    }


def _ensemble(inquiry: Inquiry, members: Sequence[int]) -> dict[str, Any] | None:
    """The formula of the ensemble's error beside the measured one, for the first target; `members` by their numbers in the job."""
    target = inquiry.targets[0]
    answer = inquiry.answers("test", Asking(members="all", weights="equal").axes(inquiry.model))[target.name]
    errors = member_errors(answer, target, inquiry.material, inquiry.parts["test"])
    if errors is None:
        return None
    return {"error": errors[0], **variance_decomposition(errors[1]), "out_of_bag": _out_of_bag(inquiry, members)}


def _out_of_bag(inquiry: Inquiry, members: Sequence[int]) -> float | None:
    """The error of training rows averaged over the members that did not see them; null without bagging."""
    spec, train, material = inquiry.model.spec, inquiry.parts["train"], inquiry.material
    if not spec.ensemble.bootstrap:
        return None
    target = inquiry.targets[0]
    everyone = Asking(members="all", weights="equal").axes(inquiry.model)
    found = member_errors(inquiry.answers("train", everyone)[target.name], target, material, train)
    known = (~target.missing(material.labels[target.name][torch.from_numpy(train)])).numpy()
    unseen = np.stack([~np.isin(train[known], spec.ensemble.rows(i, train, seed=spec.seed)) for i in members])
    covered = unseen.any(axis=0)
    if found is None or not covered.any():
        return None
    errors, out = found[1][:, covered], unseen[:, covered].astype(np.float64)
    weights = (out / out.sum(axis=0)).reshape(*out.shape, *[1] * (errors.ndim - 2))
    return float(((errors * weights).sum(axis=0) ** 2).sum() / covered.sum())


def _dropout(inquiry: Inquiry) -> dict[str, Any]:
    """Weight scaling beside the arithmetic and the geometric mean of 50 masks; the gap is the mean |difference|."""
    name = inquiry.targets[0].name
    scaled, sampled = Asking(members="best").axes(inquiry.model), Asking(mode="monte_carlo").axes(inquiry.model)
    one, many = inquiry.answers("test", scaled)[name], inquiry.answers("test", sampled)[name]
    return {
        "weight_scaled": inquiry.measure("test", scaled),
        "arithmetic": inquiry.measure("test", sampled),
        "geometric": None if inquiry.model.regression else inquiry.measure("test", sampled._replace(combine="geometric")),
        "gap": float((center(one) - center(many)).abs().mean()),
    }


def _calibration(inquiry: Inquiry, axes: Axes, test: Found | None) -> dict[str, Any] | None:
    """Calibration of the default mode on test, and the temperature that validation rows ask for."""
    target = inquiry.targets[0]
    if target.task != "classification":
        return None
    found = None
    if "validation" in inquiry.parts:
        labels = inquiry.material.labels[target.name][torch.from_numpy(inquiry.parts["validation"])]
        answer = inquiry.answers("validation", axes)[target.name]
        found = temperature(answer.logits, labels) if isinstance(answer, Classes) else None
    prefix = "" if len(inquiry.targets) == 1 else f"{target.name}."
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
    for i, network in enumerate(model.networks):
        for penalty in model.spec_of(i).regularizers:
            layers = matching(penalty.layers, list(network.layers()), spare_heads=penalty.spares_heads)
            value = float(penalty.value(weights_of(network, layers, everything=penalty.parameters == "all")))
            found[penalty.type] = found.get(penalty.type, 0.0) + value / model.size
    return found


def _confusion(inquiry: Inquiry, axes: Axes) -> dict[str, Any] | None:
    """Counts of test rows: rows of the matrix are true classes, columns predicted ones."""
    for target, names in zip(inquiry.targets, inquiry.model.classes, strict=True):
        answer = inquiry.answers("test", axes)[target.name]
        if names is None or not isinstance(answer, Classes):
            continue
        truth = inquiry.material.labels[target.name][torch.from_numpy(inquiry.parts["test"])].numpy()
        known = truth >= 0
        counts = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(counts, (truth[known], answer.prediction.numpy()[known]), 1)
        return {"target": target.name, "classes": list(names), "matrix": counts.tolist()}
    return None


def _invariance(inquiry: Inquiry) -> dict[str, float]:
    """For each augmentation the mean |f(Tx) - f(x)| of the best member on test."""
    axes, name = Asking(members="best").axes(inquiry.model), inquiry.targets[0].name
    before = inquiry.answers("test", axes)[name]
    found: dict[str, float] = {}
    for transform in inquiry.model.spec.augmentation:
        x = transform(inquiry.material.rows(inquiry.parts["test"])[0].float(), torch.Generator().manual_seed(0))
        found[transform.type] = float((center(ask(inquiry.model, x, axes, beat=inquiry.beat)[name]) - center(before)).abs().mean())
    return found


def center(answer: Answer) -> Tensor:
    """What an answer says in one tensor: probabilities or means."""
    return answer.probabilities if isinstance(answer, Classes) else answer.mean
