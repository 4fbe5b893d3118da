"""Monte Carlo dropout on published splits of two UCI sets, over HTTP: python -m benchmarks.monte_carlo [--splits 4]

Gal and Ghahramani 2016, "Dropout as a Bayesian approximation", in the setup of their released code's long run: one layer of
50, Glorot weights and zero biases, dropout .005 of inputs and hidden units, Adam 1e-3, batch 128, 4000 epochs, and the decay
l^2 (1 - p) / (2 N tau) with l = .01 and tau = .5. tau, in 1 / unit^2 of the target, enters that and the log likelihood
alone. Published (grid search per split, hence another tau): yacht .666 +- .049, energy .539 +- .014, standard errors.
"""

import json
import sys
import time
from typing import NamedTuple

import httpx2
import numpy as np

from benchmarks.service import Answer, service
from benchmarks.uci import Floats, Table, arguments, finished, members, rmse, spread, submit, upload

RATE, LENGTH, TAU, SAMPLES = 0.005, 0.01, 0.5, 1000
LEAST_LL = -1.45


class Bound(NamedTuple):
    """The mean RMSE that is expected and how far from it ours may be."""

    rmse: float
    within: float
    published: str


BOUNDS = {"yacht": Bound(0.67, 0.10, ".666 +- .049"), "energy": Bound(0.54, 0.05, ".539 +- .014")}


class Figures(NamedTuple):
    """What one split gave."""

    rmse: float
    weight_scaled: float
    ll: float


def spec(rows: int) -> Answer:
    """The job on that many training rows; l2 adds alpha w^2, as the released code's Keras does."""
    return {
        "targets": [{"name": "y", "task": "regression", "loss": "mse"}],
        "architecture": {"type": "mlp", "hidden": [50], "init": "glorot", "dropout": {"input": RATE, "hidden": RATE}},
        "regularizers": [{"type": "l2", "alpha": LENGTH**2 * (1 - RATE) / (2 * rows * TAU)}],
        "optimizer": {"type": "adam", "learning_rate": 1e-3},
        "epochs": 4000,
        "batch_size": 128,
        "early_stopping": None,
    }


def log_likelihood(samples: Floats, y: Floats) -> float:
    """Mean over rows of log 1/S sum_s N(y; sample_s, 1 / tau), samples [N, S] in the target's unit (the paper, equation 8)."""
    logs = -0.5 * TAU * (y[:, None] - samples) ** 2
    return float((np.logaddexp.reduce(logs, axis=1) - np.log(samples.shape[1]) - 0.5 * np.log(2 * np.pi / TAU)).mean())


def measured(http: httpx2.Client, table: Table, split: int, job: Answer) -> Figures:
    """The figures of a split's model, from what it says of the test rows."""
    test = table.splits[split]
    x, y = table.x[test], table.y[test]
    samples, _ = members(http, job["model"], x, mode="monte_carlo", samples=SAMPLES)
    if not samples.std(1).max() > 0:
        raise SystemExit("the passes do not differ: dropout is off")
    scaled, _ = members(http, job["model"], x, mode="weight_scaled")
    return Figures(rmse(samples.mean(1) - y), rmse(scaled.mean(1) - y), log_likelihood(samples, y))


def judged(name: str, found: list[Figures], seconds: float) -> bool:
    """Print a set's line, +- standard errors; whether it holds."""
    own, scaled, ll = (spread([getattr(each, field) for each in found]) for field in Figures._fields)
    bound = BOUNDS[name]
    holds = abs(own.mean - bound.rmse) <= bound.within and abs(scaled.mean / own.mean - 1) <= 0.1 and ll.mean >= LEAST_LL
    print(
        f"{name:7s} rmse {own.mean:.3f} +- {own.se:.3f} ({bound.rmse} +- {bound.within}, published {bound.published})   "
        f"weight-scaled {scaled.mean:.3f} +- {scaled.se:.3f} (within 10 %)   ll {ll.mean:.3f} +- {ll.se:.3f} (at least {LEAST_LL})   "
        f"{len(found)} splits, {seconds:.0f} s   {'holds' if holds else 'FALLS SHORT'}",
        flush=True,
    )
    return holds


def main() -> int:
    given = arguments(BOUNDS)
    print("spec:", json.dumps(spec(277)), "for 277 training rows")
    held = []
    with service(given.workers) as (http, _):
        for name in given.sets:
            table, began = upload(http, name), time.monotonic()
            jobs = [submit(http, table, split, spec(len(table.rest(split)))) for split in range(given.splits)]
            done = [finished(http, job) for job in jobs]
            seconds = time.monotonic() - began
            held.append(judged(name, [measured(http, table, split, job) for split, job in enumerate(done)], seconds))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
