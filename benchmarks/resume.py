"""Trainers killed at random moments of random specs, over HTTP: do the jobs end with the bytes of undisturbed ones?"""

import argparse
import random
import secrets
import time
from contextlib import suppress
from os import kill
from signal import SIGKILL
from typing import Any

import httpx2

from benchmarks.service import Answer, run, service
from tests.system.desk import trainers

DROPOUT = {"input": 0.1, "hidden": 0.4}
OPTIMIZERS = [
    {"type": "adam"},
    {"type": "adamw"},
    {"type": "sgd", "learning_rate": 0.05, "nesterov": True},
]
SCHEDULES = [{"type": "constant"}, {"type": "cosine", "warmup_epochs": 2}, {"type": "step", "every": 5, "factor": 0.5}]
EPOCHS = 60


def drawn(stream: random.Random) -> Answer:
    """A spec in which tricks that have a state are put together at random."""
    residual = stream.random() < 0.3
    return {
        "dataset": "digits",
        "architecture": {
            "type": "mlp", "hidden": [48, 48, 48], "residual": residual, "batch_norm": stream.random() < 0.4,
            "dropout": DROPOUT if stream.random() < 0.7 else 0.0,
        },
        "augmentation": [{"type": "gaussian_noise", "std": 0.5}] if stream.random() < 0.6 else [],
        "adversarial_training": {"method": "fgsm", "epsilon": 0.5} if stream.random() < 0.2 else None,
        "regularizers": [{"type": "l1", "alpha": 1e-4}, {"type": "max_norm", "limit": 3.0}] if stream.random() < 0.5 else [],
        "ensemble": {"size": 2, "bootstrap": True} if stream.random() < 0.6 else {},
        "optimizer": stream.choice(OPTIMIZERS),
        "schedule": stream.choice(SCHEDULES),
        "early_stopping": {"patience": stream.choice([15, 40])} if stream.random() < 0.6 else None,
        "epochs": EPOCHS,
        "seed": stream.randrange(1000),
        "checkpoint_interval_s": 0,
    }  # fmt: skip


def digest(http: httpx2.Client, job: Answer) -> str:
    """The digest of a job's weights."""
    return str(http.get(f"/api/v1/models/{job['model']}").json()["sha256"])


def disturbed(http: httpx2.Client, pid: int, spec: Answer, delays: list[float]) -> tuple[Answer, int]:
    """The job, done, whose trainers were killed after each of these delays, and how many kills met it."""
    job, kills = http.post("/api/v1/jobs", json=spec).json(), 0
    for delay in delays:
        time.sleep(delay)
        for child in trainers(pid):
            with suppress(ProcessLookupError):
                kill(child, SIGKILL)
                kills += 1
    while not job["done"]:
        job = http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 30, "since": job["version"]}).json()
    return job, kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    stream, points, same, resumed, attempts = random.Random(seed), 0, 0, 0, 0
    wrong: list[Any] = []
    with service(environment={"TEMPER_MAX_ATTEMPTS": "20"}) as (http, launched):
        assert launched.process is not None
        while points < given.points and attempts < 3 * given.points:
            attempts += 1
            spec = drawn(stream)
            undisturbed, seconds = run(http, {**spec, "name": f"straight-{attempts}"})
            share = [stream.uniform(0.05, 0.9) * seconds / 2 for _ in range(2)]
            job, kills = disturbed(http, launched.process.pid, {**spec, "name": f"killed-{attempts}"}, share)
            if not kills:
                continue
            points += kills
            resumed += "resumed at epoch" in http.get(f"/api/v1/jobs/{job['id']}/logs").text
            if job["state"] == "succeeded" and digest(http, job) == digest(http, undisturbed):
                same += kills
            else:
                wrong.append((spec, job["error"]))
    print(f"seed {seed}: {points} kills at random points of {attempts} specs, {resumed} jobs resumed from a checkpoint")
    for spec, error in wrong:
        print(f"  differs: {spec} {error}")
    holds = points >= given.points and same == points
    print(f"same SHA-256 as undisturbed: {same} of {points}   all   {'holds' if holds else 'FALLS SHORT'}")
    raise SystemExit(not holds)


if __name__ == "__main__":
    main()
