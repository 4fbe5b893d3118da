"""What averaging saves: the error of a mean of k answers in its parts, at every size, and against the best of the k.

Goodfellow, Bengio and Courville 2016, "Deep Learning", section 7.11, with uncentred moments, so that its formula is an identity;
Krogh and Vedelsby 1994 for the ambiguity.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from service.inference.material import Material
from service.inference.pools import Answer, Classes
from service.tricks.multitask import Target

Floats = NDArray[np.float64]
RESAMPLES, LEVEL = 2000, 0.95
MOST_BLOCKS = 2000
"""Rows, or blocks of rows, that a bootstrap draws from."""


def variance_decomposition(errors: Floats) -> dict[str, float]:
    """v, c and what they predict, from members' errors [K, N, ...] (uncentred; Deep Learning, section 7.11).

    The squared error of the mean is v / k + (k - 1) c / k with v the mean square of an error and c the mean product of
    two members' errors; squares are summed over trailing axes and averaged over rows.
    """
    k, n = errors.shape[:2]
    flat = errors.reshape(k, -1)
    second = flat @ flat.T / n
    v = float(np.trace(second) / k)
    c = float((second.sum() - np.trace(second)) / (k * (k - 1))) if k > 1 else v
    mean = flat.mean(axis=0)
    measured = float((mean**2).sum() / n)
    ambiguity = float(((flat - mean) ** 2).sum() / n / k)
    return {
        "k": k, "v": v, "c": c, "predicted_error": predicted(v, c, k), "measured_error": measured,
        "mean_member_error": v, "ambiguity": ambiguity,
    }  # fmt: skip


def predicted(v: float, c: float, k: int) -> float:
    """v / k + (k - 1) c / k: the mean error over all averages of k of the members that v and c are of."""
    return v / k + (k - 1) * c / k


def errors_by_size(errors: Floats) -> list[dict[str, float]]:
    """For each size from 1 to k the error of the average of the first members [K, N, ...], and the formula's.

    The formula's is the mean over all choices of so many members; one order of them goes up and down around it.
    """
    k, n = errors.shape[:2]
    flat = errors.reshape(k, -1)
    found = variance_decomposition(errors)
    total, rows = np.zeros(flat.shape[1]), []
    for size, error in enumerate(flat, start=1):
        total += error
        measured = float((total**2).sum() / n) / size**2
        rows.append({"k": size, "measured": measured, "predicted": predicted(found["v"], found["c"], size)})
    return rows


def member_squares(errors: Floats) -> Floats:
    """Each member's squared error on each row [K, N], from errors [K, N, ...]."""
    return np.asarray((errors.reshape(*errors.shape[:2], -1) ** 2).sum(-1))


def against_best(errors: Floats, *, seed: int) -> tuple[int, dict[str, float]]:
    """The place of the member with the smallest error, and by how much the ensemble's is smaller, with an interval.

    The member is chosen on the very rows it is compared on, which favours it; ties go to the first.
    """
    each = member_squares(errors)
    best = int(each.mean(1).argmin())
    together = member_squares(errors.mean(axis=0, keepdims=True))[0]
    return best, mean_interval(each[best] - together, seed=seed)


def mean_interval(differences: Floats, *, seed: int) -> dict[str, float]:
    """The mean of paired differences [N] and its percentile interval over resampled rows (Efron 1979).

    Beyond `MOST_BLOCKS` rows blocks of rows are resampled, random ones of about equal size, whose means vary as much.
    """
    stream = np.random.default_rng(seed)
    blocks = np.array_split(stream.permutation(differences), min(len(differences), MOST_BLOCKS))
    sums, counts = np.array([block.sum() for block in blocks]), np.array([len(block) for block in blocks])
    drawn = stream.integers(0, len(blocks), (RESAMPLES, len(blocks)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"difference": float(differences.mean()), "low": float(low), "high": float(high), "level": LEVEL}


def member_errors(answer: Answer, target: Target, material: Material, rows: NDArray[np.int64]) -> tuple[str, Floats] | None:
    """The name of the error and every network's signed errors [K, N, ..] on rows with a label; None where networks were not kept."""
    if isinstance(answer, Classes):
        return None if answer.members is None else class_errors(answer.members.numpy(), target, material, rows)
    if answer.members is None or answer.members.mean is None:
        return None
    return number_errors(answer.members.mean.double().numpy(), target, material, rows)


def answer_errors(answer: Answer, target: Target, material: Material, rows: NDArray[np.int64]) -> Floats:
    """The signed errors [1, N, ..] of what an answer says in the end, on rows with a label."""
    if isinstance(answer, Classes):
        return class_errors(answer.probabilities.numpy()[None], target, material, rows)[1]
    return number_errors(answer.mean.double().numpy()[None], target, material, rows)[1]


def class_errors(p: Floats, target: Target, material: Material, rows: NDArray[np.int64]) -> tuple[str, Floats]:
    """Probabilities [K, N, C] minus the true class's 1, or the true ones: their squares add up to the Brier score."""
    labels = material.labels[target.name][torch.from_numpy(rows)]
    known = ~target.missing(labels)
    return "brier", p[:, known.numpy()] - target.truth(labels[known], p.shape[-1]).numpy()


def number_errors(mean: Floats, target: Target, material: Material, rows: NDArray[np.int64]) -> tuple[str, Floats]:
    """Means [K, N, D] minus the truth, in the target's unit and over the root of D, so that squares add up to the mse."""
    truth = material.truth(target, rows)
    known = np.asarray(~np.isnan(truth).any(1))
    return "mse", (mean[:, known] - truth[known]) / math.sqrt(truth.shape[1])
