"""The report: what was measured of a model, as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.inference import alarms, report_sparsity
from service.inference.dropout_report import dropout
from service.inference.ensemble_report import ensemble
from service.inference.measuring import Found, Inquiry, jsonable_object, temperature
from service.inference.model import Model
from service.inference.pools import Answer, Classes
from service.inference.report_activations import activations
from service.inference.report_adversarial import adversarial_training
from service.inference.report_gradients import gradients
from service.inference.report_invariance import invariance, noise
from service.inference.report_normalization import constant_features, normalization
from service.inference.report_stopping import early_stopping
from service.inference.report_targets import targets
from service.tricks.modes import Asking, Axes, Mode

MODES: tuple[Mode, ...] = ("single", "weight_scaled", "monte_carlo", "exact", "ensemble")
Summary = dict[str, Any]


def default_axes(model: Model) -> Axes:
    """The point that answers when nothing is asked for."""
    return Asking().axes(model)


def build(inquiry: Inquiry, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The whole report of a freshly trained model."""
    model, material = inquiry.model, inquiry.material
    axes = default_axes(model)
    tested = "test" in inquiry.parts
    splits = {name: inquiry.measure(name, axes) for name in inquiry.parts}
    members = _members(inquiry, summaries)
    return jsonable_object(
        {
            "splits": {name: splits.get(name) for name in ("train", "validation", "test")},
            "rows": {name: len(inquiry.parts.get(name, ())) for name in ("train", "validation", "test")},
            "modes": _modes(inquiry) if tested else None,
            "uncertainty": _uncertainty(inquiry) if tested else None,
            "members": members,
            "targets": targets(inquiry),
            "early_stopping": early_stopping(model, summaries[model.best]),
            "ensemble": ensemble(inquiry, summaries, members),
            "dropout": dropout(inquiry),
            "adversarial_training": adversarial_training(inquiry, summaries),
            "calibration": _calibration(inquiry, axes, splits.get("test")),
            "normalization": normalization(material),
            "parameters": {"member": model.parameters, **model.networks[0].sharing._asdict()},
            "reconstruction": _reconstruction(inquiry, splits),
            "constant_features": constant_features(material),
            "activations": activations(inquiry),
            "gradients": gradients(summaries),
            "sparsity": report_sparsity.sparsity(inquiry),
            "penalties": report_sparsity.penalties(inquiry),
            "gates": report_sparsity.gates(inquiry),
            "confusion_matrix": _confusion(inquiry, axes) if tested else None,
            "invariance": invariance(inquiry) if tested else {},
            "noise": noise(inquiry) if tested else None,
        }
    )


def _modes(inquiry: Inquiry) -> dict[str, Found]:
    """Metrics on test of every mode that this model has."""
    points = {mode: inquiry.point(mode) for mode in MODES}
    return {mode: inquiry.measure("test", axes) for mode, axes in points.items() if axes is not None}


def _uncertainty(inquiry: Inquiry) -> dict[str, dict[str, Found]]:
    """By mode and target, the mean over test rows of what a prediction says of it; null where one network cannot know."""
    found: dict[str, dict[str, Found]] = {}
    for mode in MODES:
        axes = inquiry.point(mode)
        if axes is not None:
            answers = inquiry.answers("test", axes)
            found[mode] = {target.name: uncertainty(answers[target.name]) for target in inquiry.targets}
    return found


def uncertainty(answer: Answer) -> Found:
    """Means over rows: entropies in nats and agreement, or standard deviations in the target's unit."""
    if isinstance(answer, Classes):
        parts: dict[str, Tensor | None] = {name: getattr(answer, name) for name in ("total", "aleatoric", "epistemic", "agreement")}
        return {name: float(part.mean()) if part is not None else None for name, part in parts.items()}
    parts = {"std": answer.variance, "aleatoric_std": answer.aleatoric, "epistemic_std": answer.epistemic}
    return {name: float(part.sqrt().mean()) if part is not None else None for name, part in parts.items()}


def _members(inquiry: Inquiry, summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Each member by itself, weight-scaled on test."""
    shown = []
    for i, summary in enumerate(summaries):
        own = inquiry.measure("test", Asking(members=i).axes(inquiry.model)) if "test" in inquiry.parts else {}
        kept = ("member", "best", "best_epoch", "best_step", "stopped_epoch", "stop_reason")
        vary = inquiry.model.spec.ensemble.vary
        given = vary.values(summary["member"]) if vary is not None else None
        shown.append({**own, **{key: summary[key] for key in kept}, "second": summary.get("second"), "vary": given})
    return shown


def _calibration(inquiry: Inquiry, axes: Axes, test: Found | None) -> dict[str, Any] | None:
    """Calibration of the default mode on test, and the temperature that validation rows ask for, if none was trained on."""
    target = inquiry.targets[0]
    if not target.calibrates:
        return None
    found = None
    if "validation" in inquiry.parts and not inquiry.model.spec.trains_on_validation:
        labels = inquiry.material.labels[target.name][torch.from_numpy(inquiry.parts["validation"])]
        answer = inquiry.answers("validation", axes)[target.name]
        found = temperature(answer.logits, labels) if isinstance(answer, Classes) else None
    prefix = "" if len(inquiry.targets) == 1 else f"{target.name}."
    return {**{name: (test or {}).get(prefix + name) for name in ("ece", "nll", "brier")}, "temperature": found}


def _reconstruction(inquiry: Inquiry, splits: dict[str, Found]) -> dict[str, Any] | None:
    """The errors of the default mode on test, or on the last part there is; null for a network that reconstructs nothing."""
    mirrored = next((target.name for target in inquiry.targets if target.from_inputs), None)
    part = next((name for name in ("test", "validation", "train") if name in splits), None)
    if mirrored is None or part is None:
        return None
    prefix = "" if len(inquiry.targets) == 1 else f"{mirrored}."
    found = {name: splits[part][prefix + name] for name in ("error_normalized", "error_original")}
    return {"target": mirrored, "split": part, **found, "anomaly": alarms.measured(inquiry)}


def _confusion(inquiry: Inquiry, axes: Axes) -> dict[str, Any] | None:
    """Counts of test rows: rows of the matrix are true classes, columns predicted ones."""
    for target, names in zip(inquiry.targets, inquiry.model.classes, strict=True):
        answer = inquiry.answers("test", axes)[target.name]
        if names is None or not isinstance(answer, Classes):
            continue
        truth = target.right(inquiry.material.labels[target.name][torch.from_numpy(inquiry.parts["test"])]).numpy()
        known = truth >= 0
        counts = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(counts, (truth[known], answer.prediction.numpy()[known]), 1)
        return {"target": target.name, "classes": list(names), "matrix": counts.tolist()}
    return None
