"""Deep ensembles of 5 on the 20 published splits of five UCI sets, over HTTP: python -m benchmarks.uci_ensembles

Published: Lakshminarayanan et al. 2017, table 1, +- standard deviations over splits. The mean NLL of the moment-matched
Gaussian has to be within one of them (kin8nm: .05), below the mean NLL of the members; the NLL of the mixture density is
at most the mean NLL of the members on every row, which is a theorem (Jensen). All is computed here from what `predict`
says of the test rows, and held against the report.
"""

import json
import sys
import time
from typing import NamedTuple

import httpx2
import numpy as np

from benchmarks.service import Answer, report, service
from benchmarks.uci import Floats, Table, arguments, finished, log_density, members, rmse, spread, submit, upload


class Published(NamedTuple):
    """RMSE and NLL of the paper, and how far our mean NLL may be from its."""

    rmse: str
    nll: float
    sd: float
    within: float


PUBLISHED = {
    "yacht": Published("1.58 +- .48", 1.18, 0.21, 0.21),
    "energy": Published("2.09 +- .29", 1.38, 0.22, 0.22),
    "concrete": Published("6.03 +- .58", 3.06, 0.18, 0.18),
    "wine-quality-red": Published(".64 +- .04", 0.94, 0.12, 0.12),
    "kin8nm": Published(".09 +- .00", -1.20, 0.02, 0.05),
}
SPEC: Answer = {
    "targets": [{"name": "y", "task": "regression", "loss": "gaussian_nll"}],
    "architecture": {"type": "mlp", "hidden": [50], "activation": "relu"},
    "ensemble": {"size": 5},
    "optimizer": {"type": "adam", "learning_rate": 0.01},
    "epochs": 40,
    "batch_size": 100,
    "early_stopping": None,
}
SLACK = 1e-9
"""Of a theorem in float64, relative to the size of a log density."""


class Figures(NamedTuple):
    """What one split gave: nll of the moment-matched Gaussian, of the mixture, mean of the members; rows against the theorem."""

    rmse: float
    nll: float
    mixture: float
    member: float
    violations: int


def figures(mean: Floats, std: Floats, y: Floats) -> Figures:
    """The figures of members' means and standard deviations [N, K] on targets [N] (the paper, section 2.4)."""
    center = mean.mean(1)
    variance = (std**2).mean(1) + mean.var(1)
    logs = log_density(y[:, None], mean, std)
    mixture = np.logaddexp.reduce(logs, axis=1) - np.log(logs.shape[1])
    against = mixture < logs.mean(1) - SLACK * (1 + np.abs(logs).max(1))
    matched = log_density(y, center, np.sqrt(variance))
    return Figures(rmse(center - y), -float(matched.mean()), -float(mixture.mean()), -float(logs.mean()), int(against.sum()))


def measured(http: httpx2.Client, table: Table, split: int, job: Answer) -> Figures:
    """The figures of a split's model; ends the benchmark where the report says otherwise."""
    test = table.splits[split]
    mean, std = members(http, job["model"], table.x[test])
    if std is None:
        raise SystemExit("a Gaussian head says no standard deviation")
    found = figures(mean, std, table.y[test])
    told = report(http, job)["splits"]["test"]
    for name, own in (("rmse", found.rmse), ("nll", found.nll), ("nll_mixture", found.mixture)):
        if not np.isclose(told[name], own, rtol=1e-4, atol=1e-5):
            raise SystemExit(f"{table.name}, split {split}: the report says {name} {told[name]}, its predictions {own}")
    return found


def judged(name: str, found: list[Figures], seconds: float) -> bool:
    """Print a set's line; whether it holds."""
    columns = {field: spread([getattr(each, field) for each in found]) for field in ("rmse", "nll", "mixture", "member")}
    nll, published = columns["nll"].mean, PUBLISHED[name]
    violations = sum(each.violations for each in found)
    holds = abs(nll - published.nll) <= published.within and nll < columns["member"].mean and violations == 0
    told = "  ".join(f"{field} {value}" for field, value in columns.items())
    print(
        f"{name:17s} {told}  rows against the theorem {violations}   published rmse {published.rmse} nll {published.nll} +- {published.sd}"
        f" (within {published.within})   {len(found)} splits, {seconds:.1f} s   {'holds' if holds else 'FALLS SHORT'}",
        flush=True,
    )
    return holds


def main() -> int:
    given = arguments(PUBLISHED)
    print("spec:", json.dumps(SPEC))
    held = []
    with service(given.workers) as (http, _):
        for name in given.sets:
            table, began = upload(http, name), time.monotonic()
            jobs = [submit(http, table, split, SPEC) for split in range(given.splits)]
            done = [finished(http, job) for job in jobs]
            seconds = time.monotonic() - began
            held.append(judged(name, [measured(http, table, split, job) for split, job in enumerate(done)], seconds))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
