"""Measures of predictions against labels; fractions, not percent."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TINY = 1e-45


def classification(probabilities: Floats, labels: NDArray[np.int64], decided: NDArray[np.int64] | None = None) -> dict[str, float]:
    """Metrics of probabilities [N, C] on rows whose label is known; null-like NaN where one is undefined.

    `decided` [N] are the classes that are answered, where they are not the most probable ones; ece is of the latter.
    """
    known = labels >= 0
    p, y = probabilities[known], labels[known]
    if not len(y):
        return {}
    predicted, confidence = p.argmax(1) if decided is None else decided[known], p.max(1)
    accuracy = float((predicted == y).mean())
    onehot = np.eye(p.shape[1])[y]
    present = np.unique(y)
    recall = np.array([(predicted[y == c] == c).mean() for c in present])
    return {
        "accuracy": accuracy,
        "error": 1.0 - accuracy,
        "balanced_accuracy": float(recall.mean()),
        "f1_macro": _f1_macro(predicted, y),
        "auroc": auroc_macro(p, y),
        "nll": float(-np.log(np.maximum(p[np.arange(len(y)), y], TINY)).mean()),
        "brier": float(((p - onehot) ** 2).sum(1).mean()),
        "ece": expected_calibration_error(confidence, p.argmax(1) == y),
    }


def distribution(probabilities: Floats, labels: Floats) -> dict[str, float]:
    """Metrics of probabilities [N, C] against distributions [N, C], NaN where missing; nll is the soft cross-entropy, kl(labels, p)."""
    known = ~np.isnan(labels).any(1)
    p, t = probabilities[known], labels[known]
    if not len(t):
        return {}
    nll = float(-(t * np.log(np.maximum(p, TINY))).sum(1).mean())
    # Right is a class than which none is more probable: the labels may have equals.
    accuracy = float((t[np.arange(len(t)), p.argmax(1)] >= t.max(1)).mean())
    entropy = float(-(t * np.log(np.where(t > 0, t, 1.0))).sum(1).mean())
    brier = float(((p - t) ** 2).sum(1).mean())
    return {"accuracy": accuracy, "error": 1.0 - accuracy, "nll": nll, "kl": nll - entropy, "brier": brier}


def _f1_macro(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in labels or predictions of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for c in np.union1d(predicted, labels):
        hits = float(((predicted == c) & (labels == c)).sum())
        scores.append(2 * hits / float((predicted == c).sum() + (labels == c).sum()))
    return float(np.mean(scores))


def auroc_macro(p: Floats, labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve: of class 1 for two classes, else the mean over classes of one against the rest."""
    classes = [1] if p.shape[1] == 2 else [c for c in range(p.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    areas = [auroc(p[:, c], labels == c) for c in classes]
    return float(np.mean(areas)) if areas else math.nan


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Mann-Whitney U over n+ n-, ties counting one half; NaN without both classes."""
    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs:
        return math.nan
    _, codes, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2.0
    return float((middle[codes][positive].sum() - ups * (ups + 1) / 2) / (ups * downs))


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Weighted mean |accuracy - confidence| over equal-width, right-closed bins (Guo et al. 2017, eq. 3)."""
    return float(
        sum(abs(bin_.accuracy - bin_.confidence) * bin_.count for bin_ in calibration_bins(confidence, correct, bins)) / len(correct)
    )


class Bin:
    """Rows of similar confidence: how many, their mean confidence and their accuracy."""

    def __init__(self, confidence: Floats, correct: NDArray[np.bool_]) -> None:
        self.count = len(correct)
        self.confidence = float(confidence.mean())
        self.accuracy = float(correct.mean())


def calibration_bins(confidence: Floats, correct: NDArray[np.bool_], bins: int = 15) -> list[Bin]:
    """The bins that hold any row, from low to high confidence."""
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [Bin(confidence[places == b], correct[places == b]) for b in range(bins) if (places == b).any()]


def regression(mean: Floats, truth: Floats, variance: Floats | None, members: Mapping[str, Floats] | None = None) -> dict[str, float]:
    """Metrics of predictions [N, D] in the target's unit; nll is the density of the original target.

    `members` has their `mean` and `variance` [M, N, D], and perhaps positive `weights` [M].
    """
    known = ~np.isnan(truth).any(1)
    mean, truth = mean[known], truth[known]
    if not len(truth):
        return {}
    squares = (mean - truth) ** 2
    spread = ((truth - truth.mean(0)) ** 2).sum()
    found = {
        "rmse": float(np.sqrt(squares.mean())),
        "mse": float(squares.mean()),
        "mae": float(np.abs(mean - truth).mean()),
        "r2": float(1 - squares.sum() / spread) if spread > 0 else math.nan,
    }
    if variance is not None:
        found["nll"] = float(gaussian_nll(mean, variance[known], truth).mean())
    if members is not None:
        logs = -gaussian_nll(members["mean"][:, known], members["variance"][:, known], truth)
        weights = members.get("weights", np.full(len(logs), 1 / len(logs)))
        found["nll_mixture"] = float(-np.logaddexp.reduce(logs + np.log(weights)[:, None], axis=0).mean())
    return found


def gaussian_nll(mean: Floats, variance: Floats, truth: Floats) -> Floats:
    """Negative log density [.., N], summed over the D outputs."""
    terms = 0.5 * (np.log(2 * math.pi * variance) + (truth - mean) ** 2 / variance)
    return np.asarray(terms.sum(-1))
