"""Ten bagged networks on published splits of UCI energy, over HTTP: python -m benchmarks.bagging [--splits 20]

From the members' errors E [K, N] on test, as `predict` says them: v/k + (k-1)c/k is the error that the report measured, the
ensemble's error is the mean member's less the ambiguity (both identities, 1e-6), so it is no larger than the mean member's;
members with equal seeds have c = v. The out-of-bag error is computed here from the members' answers on their unseen rows,
held against the report, and its RMSE has to be within 25 % of the test RMSE, in the mean over splits (Breiman 1996).
"""

import argparse
import json
import sys
from typing import NamedTuple

import httpx2
import numpy as np

from benchmarks.service import Answer, report, service
from benchmarks.uci import Floats, Table, finished, members, rmse, spread, submit, upload
from service.tricks.bagging import Ensemble

K, SEED, NEAR = 10, 0, 1e-6
SPEC: Answer = {
    "targets": [{"name": "y", "task": "regression", "loss": "mse"}],
    "architecture": {"type": "mlp", "hidden": [50]},
    "ensemble": {"size": K, "bootstrap": True},
    "optimizer": {"type": "adam", "learning_rate": 0.01},
    "epochs": 100,
    "batch_size": 100,
    "early_stopping": None,
    "seed": SEED,
}


class Figures(NamedTuple):
    """What one split gave: root mean squares, v and c, and how far the identities are off, relative to the error measured."""

    test: float
    out_of_bag: float
    member: float
    v: float
    c: float
    formula_off: float
    ambiguity_off: float
    bag_off: float


def out_of_bag(http: httpx2.Client, table: Table, split: int, job: Answer) -> float:
    """The mean square over training rows of the mean error of the members that never saw the row."""
    train = np.asarray(table.rest(split))
    errors = members(http, job["model"], table.x[train])[0] - table.y[train][:, None]
    drawn = Ensemble(size=K, bootstrap=True)
    unseen = np.stack([~np.isin(train, drawn.rows(i, train, seed=SEED)) for i in range(K)], axis=1)
    covered = unseen.any(1)
    own = (errors * unseen).sum(1)[covered] / unseen.sum(1)[covered]
    return float((own**2).mean())


def moments(errors: Floats) -> tuple[float, float]:
    """v and c, the mean square of an error and the mean product of two members' errors, of errors [N, K] (Deep Learning, 7.11)."""
    second = errors.T @ errors / len(errors)
    k = len(second)
    return float(np.diag(second).mean()), float((second.sum() - np.trace(second)) / (k * (k - 1)))


def measured(http: httpx2.Client, table: Table, split: int, job: Answer) -> Figures:
    """The figures of a split's model."""
    test = table.splits[split]
    errors = members(http, job["model"], table.x[test])[0] - table.y[test][:, None]
    v, c = moments(errors)
    told, mean = report(http, job)["ensemble"], errors.mean(1)
    error, ambiguity = told["measured_error"], float(((errors - mean[:, None]) ** 2).mean())
    bag = out_of_bag(http, table, split, job)
    return Figures(
        test=rmse(mean),
        out_of_bag=bag**0.5,
        member=v**0.5,
        v=v,
        c=c,
        formula_off=abs((v / K + (K - 1) * c / K) / error - 1),
        ambiguity_off=abs((v - ambiguity) / error - 1),
        bag_off=abs(told["out_of_bag"] / bag - 1),
    )


def said(what: str, value: str, holds: bool) -> bool:
    """Print a line."""
    print(f"{what:62s} {value:34s} {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds


def identical(http: httpx2.Client, table: Table) -> bool:
    """Whether ten members with one seed are one member."""
    spec = {**SPEC, "ensemble": {"size": K, "bootstrap": True, "seeds": [SEED] * K}}
    job = finished(http, submit(http, table, 0, spec))
    test = table.splits[0]
    means, _ = members(http, job["model"], table.x[test])
    v, c = moments(means - table.y[test][:, None])
    told = report(http, job)["ensemble"]
    off = max(abs(c / v - 1), abs(told["c"] / told["v"] - 1))
    equal = bool((means == means[:, :1]).all())
    return said("equal seeds: c = v, all members say the same (split 0)", f"off by {off:.1e}, {equal}", off <= NEAR and equal)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=20, help="how many of the published splits, from the first")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    print("spec:", json.dumps(SPEC))
    with service(given.workers) as (http, _):
        table = upload(http, "energy")
        jobs = [submit(http, table, split, SPEC) for split in range(given.splits)]
        found = [measured(http, table, split, finished(http, job)) for split, job in enumerate(jobs)]
        same = identical(http, table)
    ratios = [each.out_of_bag / each.test for each in found]
    ratio, worst = float(np.mean(ratios)), {name: max(getattr(each, name) for each in found) for name in Figures._fields if "_off" in name}
    for name in ("test", "out_of_bag", "member", "v", "c"):
        print(
            f"{name:11s} {spread([getattr(each, name) for each in found])}   ({'mse' if name in 'vc' else 'rmse'}, {given.splits} splits)"
        )
    held = [
        same,
        said("v/k + (k-1)c/k over the report's measured_error", f"off by {worst['formula_off']:.1e}", worst["formula_off"] <= NEAR),
        said("mean member's error - ambiguity over measured_error", f"off by {worst['ambiguity_off']:.1e}", worst["ambiguity_off"] <= NEAR),
        said("error of the ensemble at most the mean member's", "on every split", all(each.test <= each.member for each in found)),
        said("the report's out_of_bag over the one by hand", f"off by {worst['bag_off']:.1e}", worst["bag_off"] <= NEAR),
        said("out-of-bag over test RMSE", f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})", 0.75 <= ratio <= 1.25),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
