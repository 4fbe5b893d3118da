"""The stopping point of the best member in the report: what it saved, how far training went, what it amounts to, what followed."""

from collections.abc import Mapping
from typing import Any

from service.inference.model import Model
from service.spec import TrainSpec
from service.tricks.optimization import SGD, Constant
from service.tricks.stopping import equivalent_l2, ridge_share

Summary = Mapping[str, Any]
WITHIN = 0.05
"""By how much the equivalent L2 may miss where it is said to hold."""
PRODUCTS = (0.05, 0.5, 5.0, 15.0)
"""Of learning rate, curvature and steps, at which is shown how far the equivalent L2 holds."""


def early_stopping(model: Model, summary: Summary) -> dict[str, Any] | None:
    """What the report says; null where nothing was monitored."""
    spec = model.spec_of(model.best)
    if spec.early_stopping is None:
        return None
    return {
        **{name: summary[name] for name in ("best_epoch", "best_step", "stopped_epoch")},
        "reason": summary["stop_reason"],
        "stopped_by": summary.get("stopped_by", summary["stop_reason"]),
        "epochs_saved": spec.epochs - summary["stopped_epoch"],
        "distance": summary.get("distance"),
        **_as_l2(spec, summary["best_step"]),
        "then": spec.early_stopping.then,
        "second": summary.get("second"),
    }


def _as_l2(spec: TrainSpec, steps: int) -> dict[str, Any]:
    """The L2 penalty that stopping resembles, and where: null for momentum, Adam and rates that change, of which theory says nothing."""
    optimizer = spec.optimizer
    if not isinstance(optimizer, SGD) or optimizer.momentum != 0 or not isinstance(spec.schedule, Constant):
        return {"equivalent_l2": None, "equivalent_l2_range": None}
    rate = optimizer.learning_rate
    shares = [
        {
            "curvature": product / (rate * steps),
            "product": product,
            "share": ridge_share(product / rate / steps, steps=steps, learning_rate=rate),
        }
        for product in PRODUCTS
    ]
    held = {"within": WITHIN, "curvature_below": holds_below(steps, rate), "shares": shares}
    return {"equivalent_l2": equivalent_l2(steps, rate), "equivalent_l2_range": held}


def holds_below(steps: int, learning_rate: float, *, within: float = WITHIN) -> float:
    """The curvature up to which the equivalent L2 is right to that share; above it stopping penalizes less, and soon nothing."""
    low, high = 0.0, 1.0 / learning_rate
    for _ in range(60):  # the share falls with the curvature
        middle = (low + high) / 2
        if ridge_share(middle, steps=steps, learning_rate=learning_rate) < 1 - within:
            high = middle
        else:
            low = middle
    return low
