"""Early stopping three ways on a linear regression whose validation curve is a U, over HTTP: python -m benchmarks.early_stopping

Deep Learning, Algorithms 7.1 to 7.3, and section 7.8 on what stopping is equal to. Everything is computed here from the
service's series, files and answers: the best epoch, the steps of a second phase and what ended it, ridge along each
direction of curvature, and a job whose trainer is killed in either phase.
"""

import io
import random
import sys
import time
from contextlib import suppress
from os import kill
from signal import SIGKILL
from typing import Any, NamedTuple

import httpx2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from benchmarks.service import Answer, report, run, service
from benchmarks.uci import finished
from tests.system.desk import trainers

Floats = NDArray[np.float64]
TRAIN, VALIDATION, INPUTS, NOISE = 60, 40, 30, 2.0
RATE, PATIENCE, CAP = 0.01, 200, 3
NAME = "u-shaped"


class Check(NamedTuple):
    """What was looked at, what it gave, what it had to be, and whether it was."""

    what: str
    found: str
    bound: str
    holds: bool


def rows() -> tuple[Floats, Floats]:
    """Inputs of very different sizes, half as many as training rows, and targets with noise to overfit."""
    stream = np.random.default_rng(1)
    x = stream.normal(size=(TRAIN + VALIDATION, INPUTS)) * np.geomspace(2.0, 0.4, INPUTS)
    return x.round(4), (x @ stream.normal(scale=0.5, size=INPUTS) + stream.normal(scale=NOISE, size=len(x))).round(4)


def upload(http: httpx2.Client) -> None:
    """Store the rows under their name; once is enough."""
    x, y = rows()
    content = io.BytesIO()
    np.savez(content, x=x.astype(np.float32), y=y.astype(np.float32))
    answer = http.post("/api/v1/datasets", files={"file": (f"{NAME}.npz", content.getvalue())}, data={"name": NAME})
    if answer.status_code != 201:
        raise SystemExit(answer.text)


def spec(**changed: Any) -> Answer:
    """Plain descent on all rows at once, without any normalization: a quadratic, a step an epoch."""
    stopping = {"patience": PATIENCE, **changed.pop("early_stopping", {})}
    return {
        "dataset": NAME,
        "split": {"validation_rows": list(range(TRAIN, TRAIN + VALIDATION))},
        "preprocessing": {"normalize": "none", "normalize_targets": False},
        "architecture": {"type": "mlp", "hidden": []},
        "optimizer": {"type": "sgd", "learning_rate": RATE, "momentum": 0.0},
        "batch_size": "full",
        "epochs": 20_000,
        "early_stopping": stopping,
        **changed,
    }


def series(http: httpx2.Client, job: Answer, name: str) -> list[float]:
    """A series of the only member."""
    return list(http.get(f"/api/v1/jobs/{job['id']}/metrics", params={"name": name, "member": 0}).json()["value"])


def weights(http: httpx2.Client, job: Answer) -> Floats:
    """The model's weights and, last, its bias."""
    tensors = load(http.get(f"/api/v1/models/{job['model']}/files/model.safetensors").content)
    return np.concatenate([tensors[f"members.0.heads.0.{name}"].ravel() for name in ("weight", "bias")]).astype(np.float64)


def loss(theta: Floats, some: slice) -> float:
    """The mean squared error of weights on some rows."""
    x, y = rows()
    return float(np.mean((x[some] @ theta[:-1] + theta[-1] - y[some]) ** 2))


def jobs(http: httpx2.Client) -> dict[str, Answer]:
    """The jobs of the three ways, and one whose only step is too short to be seen, so that its weights are the initial ones."""
    still = {"optimizer": {"type": "sgd", "learning_rate": 1e-12, "momentum": 0.0}, "epochs": 1}
    specs = {
        "restore_best": spec(),
        "retrain": spec(early_stopping={"then": "retrain"}),
        "threshold": spec(early_stopping={"then": "continue", "cap_epochs": 20_000}),
        "cap": spec(early_stopping={"then": "continue", "cap_epochs": CAP}),
        "initial": spec(**still),
    }
    posted = {name: http.post("/api/v1/jobs", json=wanted).json() for name, wanted in specs.items()}
    return {name: finished(http, job) for name, job in posted.items()}


def restored(http: httpx2.Client, done: dict[str, Answer]) -> list[Check]:
    """7.1: the kept weights are those of the lowest validation loss."""
    job = done["restore_best"]
    found, curve = report(http, job)["early_stopping"], series(http, job, "validation.loss")
    best, kept = int(np.argmin(curve)) + 1, loss(weights(http, job), slice(TRAIN, None))
    shape = f"{curve[0]:.2f} down to {min(curve):.2f}, up to {curve[-1]:.2f}"
    return [
        Check("validation loss", shape, "a U", curve[0] > 1.02 * min(curve) < curve[-1] and 1 < best < len(curve)),
        Check("7.1 best epoch", f"{found['best_epoch']}", f"argmin {best}", found["best_epoch"] == best),
        Check("7.1 its loss from the kept weights", f"{kept:.6f}", f"{min(curve):.6f}", abs(kept - min(curve)) < 1e-5 * kept),
        Check("7.1 ended", f"{job['stop_reason']} after {len(curve)}", f"{best + PATIENCE}", len(curve) == best + PATIENCE),
    ]


def retrained(http: httpx2.Client, done: dict[str, Answer]) -> list[Check]:
    """7.2: from the same start, on all rows, for exactly i* steps; the weights are those of descent by hand."""
    job = done["retrain"]
    found = report(http, job)["early_stopping"]
    steps, lasted = found["best_step"], len(series(http, job, "retraining.train.loss"))
    off = float(np.abs(descent(weights(http, done["initial"]), steps, slice(None)) - weights(http, job)).max())
    return [
        Check("7.2 steps again", f"{found['second']['steps']} ({job['stop_reason']})", f"i* = {steps}", found["second"]["steps"] == steps),
        Check("7.2 epochs of its series, one step each", f"{lasted}", f"{steps}", lasted == steps),
        Check("7.2 weights beside descent by hand", f"{off:.1e}", "1e-6", off < 1e-6),
    ]


def continued(http: httpx2.Client, done: dict[str, Answer]) -> list[Check]:
    """7.3: at the training loss of the stopping point, or at the cap; which of the two is told."""
    threshold = loss(weights(http, done["restore_best"]), slice(0, TRAIN))
    checks = []
    for reason in ("threshold", "cap"):
        job = done[reason]
        second, curve = report(http, job)["early_stopping"]["second"], series(http, job, "retraining.validation.loss")
        bound, last = second["threshold"], len(curve) == CAP and min(curve) > second["threshold"]
        held = curve[-1] <= bound < min(curve[:-1]) if reason == "threshold" else last
        told = f"{second['reason']} after {len(curve)} epochs at {curve[-1]:.4f}"
        checks += [
            Check("7.3 threshold", f"{bound:.5f}", f"{threshold:.5f}", abs(bound - threshold) < 1e-4),
            Check(f"7.3 {reason}", told, reason, held and second["reason"] == job["stop_reason"] == reason),
        ]
    return checks


def design(some: slice) -> tuple[Floats, Floats]:
    """Inputs with a column of ones for the bias, and targets."""
    x, y = rows()
    return np.column_stack([x[some], np.ones(len(x[some]))]), y[some]


def descent(theta: Floats, steps: int, some: slice) -> Floats:
    """Gradient descent on the mean squared error, in float64."""
    x, y = design(some)
    for _ in range(steps):
        theta = theta - RATE * 2 / len(y) * x.T @ (x @ theta - y)
    return theta


def as_ridge(http: httpx2.Client, done: dict[str, Answer]) -> list[Check]:
    """Along each direction stopping is ridge towards the start, of strength lam q / (1 - q), q = (1 - rate lam)^steps."""
    job = done["restore_best"]
    found, start, kept = report(http, job)["early_stopping"], weights(http, done["initial"]), weights(http, job)
    x, y = design(slice(0, TRAIN))
    lam, directions = np.linalg.eigh(2 * x.T @ x / len(y))
    left = (1 - RATE * lam) ** found["best_step"]
    alpha = lam * left / (1 - left)
    least = directions.T @ np.linalg.lstsq(x, y, rcond=None)[0]
    ridge = (lam * least + alpha * (directions.T @ start)) / (lam + alpha)
    off, share = float(np.abs(ridge - directions.T @ kept).max()), alpha * RATE * found["best_step"]
    held, distance = found["equivalent_l2_range"]["curvature_below"], float(np.linalg.norm(kept - start))
    inside = share[lam < held]
    return [
        Check("ridge per direction, largest difference", f"{off:.1e}", "1e-6", off < 1e-6),
        Check("alpha rate steps over the directions", f"{share.min():.1e} to {share.max():.2f}", "far from 1", share.min() < 0.1),
        Check("where equivalent_l2 is said to hold", f"{len(inside)} of {len(lam)}", ">= .95", bool((inside > 0.949).all())),
        Check("distance", f"{found['distance']['all']:.5f}", f"{distance:.5f}", abs(found["distance"]["all"] - distance) < 1e-4),
    ]


def killed(http: httpx2.Client, pid: int, kills: int = 4) -> list[Check]:
    """Trainers killed by SIGKILL in both phases: the same i* and the same bytes. Steps are twenty times shorter here."""
    checks, stream = [], random.Random(0)
    for then in ("retrain", "continue"):
        optimizer = {"type": "sgd", "learning_rate": RATE / 20, "momentum": 0.0}
        slow = spec(early_stopping={"then": then, "patience": 500}, optimizer=optimizer, checkpoint_interval_s=0.05)
        straight, seconds = run(http, slow)
        job, met = http.post("/api/v1/jobs", json=slow).json(), set[str]()
        for _ in range(kills):
            time.sleep(stream.uniform(0.1, 0.5) * seconds / 2)
            met.add(str(http.get(f"/api/v1/jobs/{job['id']}").json()["phase"]))
            for child in trainers(pid):
                with suppress(ProcessLookupError):
                    kill(child, SIGKILL)
        job = finished(http, job)
        told = [(report(http, each)["early_stopping"], digest(http, each)) for each in (straight, job)]
        steps = [found["best_step"] for found, _ in told]
        phases = ", ".join(sorted(met))
        checks.append(Check(f"{then}, killed while {phases}: i*", f"{steps[1]}", f"{steps[0]}", told[0] == told[1]))
    return checks


LOOKS = (restored, retrained, continued, as_ridge)
"""What is looked at of the jobs that nobody disturbs."""


def digest(http: httpx2.Client, job: Answer) -> str:
    """The digest of a job's weights."""
    return str(http.get(f"/api/v1/models/{job['model']}").json()["sha256"])


def main() -> int:
    """Print a line for each check."""
    with service(environment={"TEMPER_MAX_ATTEMPTS": "20"}) as (http, launched):
        assert launched.process is not None
        upload(http)
        done = jobs(http)
        checks = [check for look in LOOKS for check in look(http, done)] + killed(http, launched.process.pid)
    for check in checks:
        print(f"{check.what:58s} {check.found:38s} {check.bound:14s} {'holds' if check.holds else 'FALLS SHORT'}")
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
