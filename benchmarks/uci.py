"""The UCI regression sets with their 20 published splits, and jobs on them over HTTP; no benchmark by itself."""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import httpx2
import numpy as np
from numpy.typing import NDArray

from benchmarks.service import DATA, Answer, present

Floats = NDArray[np.float64]
MOST_ROWS = 2000
"""Rows of one predict request."""


class Table(NamedTuple):
    """A set: inputs [N, F], targets [N], and the numbers of the test rows of every split."""

    name: str
    x: Floats
    y: Floats
    splits: list[list[int]]

    def rest(self, split: int) -> list[int]:
        """The numbers of the rows that a split trains on."""
        held = set(self.splits[split])
        return [row for row in range(len(self.y)) if row not in held]


class Spread(NamedTuple):
    """Mean of a figure over splits, its standard deviation (ddof 1) and the standard error of the mean."""

    mean: float
    sd: float
    se: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.sd:.3f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean, sd and se; one value alone has neither of the latter."""
    sd = statistics.stdev(values) if len(values) > 1 else float("nan")
    return Spread(statistics.fmean(values), sd, float(sd / len(values) ** 0.5))


def upload(http: httpx2.Client, name: str) -> Table:
    """Upload a set under its name; what it holds."""
    path = present(DATA / "uci" / f"{name}.csv")
    splits: list[list[int]] = json.loads(present(DATA / "uci" / f"{name}.splits.json").read_text())["test_rows"]
    answer = http.post("/api/v1/datasets", files={"file": (path.name, path.read_bytes())}, data={"name": name})
    if answer.status_code != 201:
        raise SystemExit(answer.text)
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    return Table(name, rows[:, :-1], rows[:, -1], splits)


def submit(http: httpx2.Client, table: Table, split: int, spec: Answer) -> Answer:
    """Post the job of one published split: all other rows train."""
    answer = http.post("/api/v1/jobs", json={**spec, "dataset": table.name, "split": {"test_rows": table.splits[split]}})
    if answer.status_code != 202:
        raise SystemExit(answer.text)
    posted: Answer = answer.json()
    return posted


def finished(http: httpx2.Client, job: Answer) -> Answer:
    """The job once it has succeeded."""
    while not job["done"]:
        job = http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 30, "since": job["version"]}).json()
    if job["state"] != "succeeded":
        raise SystemExit(json.dumps(job["error"]))
    return job


def members(http: httpx2.Client, model: str, x: Floats, **asked: Any) -> tuple[Floats, Floats | None]:
    """What every network says of rows x: means [N, M], and standard deviations where the head has them."""
    means, stds = [], []
    for at in range(0, len(x), MOST_ROWS):
        body = {"inputs": x[at : at + MOST_ROWS].tolist(), "return": ["members"], **asked}
        answer = http.post(f"/api/v1/models/{model}/predict", json=body)
        if answer.status_code != 200:
            raise SystemExit(answer.text)
        said = answer.json()["targets"]["y"]["members"]
        means.append(np.asarray(said["prediction"]))
        stds.append(None if said["std"] is None else np.asarray(said["std"]))
    spreads = [std for std in stds if std is not None]
    return np.concatenate(means), np.concatenate(spreads) if spreads else None


def rmse(error: Floats) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(error**2)))


def log_density(y: Floats, mean: Floats, std: Floats) -> Floats:
    """The Gaussian log density of y, elementwise."""
    return np.asarray(-0.5 * np.log(2 * np.pi) - np.log(std) - 0.5 * ((y - mean) / std) ** 2)


def arguments(sets: Iterable[str]) -> argparse.Namespace:
    """What the command line asks of a benchmark over these sets: `splits`, `sets` and `workers`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=20, help="how many of the published splits, from the first")
    parser.add_argument("--sets", nargs="*", default=list(sets), choices=list(sets))
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()
