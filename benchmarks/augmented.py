"""What augmentation gives where rows are few, over HTTP: python -m benchmarks.augmented [--seeds 2]

The first 1,000 training images of MNIST, 784-512-512-10, Adam 1e-3 cosine, batch 100, error on the first 5,000 test images. Plain
has 300 steps, dropout .2/.5 and augmentation (15 degrees, 4 pixels) 600. Then the trap: `digits` refuses a turn by 180 degrees,
and a network that never saw one, the augmented one, takes sixes that were turned so for nines. (The plain one, which knows
digits less well, is printed beside.)
"""

import argparse
import sys

import httpx2
import numpy as np

from benchmarks.service import DATA, Answer, report, run, service, upload_mnist

TRAIN, TEST, BATCH = 1000, 5000, 100
DECLARED: Answer = {"invariances": {"rotation_degrees": 15, "translation_pixels": 4, "horizontal_flip": False, "vertical_flip": False}}
MOVES = [{"type": "rotate", "degrees": 15.0}, {"type": "translate", "pixels": 4}]
DROPOUT = {"input": 0.2, "hidden": 0.5}
WAYS: dict[str, tuple[int, Answer]] = {"plain": (300, {}), "dropout": (600, {"dropout": DROPOUT}), "augmented": (600, {})}
AUGMENTED_MOST, DROPOUT_MOST, NINES_LEAST = 0.6, 0.9, 0.5


def spec(way: str, seed: int, test: list[int]) -> Answer:
    """The job of one way to train."""
    steps, network = WAYS[way]
    return {
        "name": way,
        "dataset": "mnist",
        "seed": seed,
        "split": {"test_rows": test},
        "architecture": {"type": "mlp", "hidden": [512, 512], **network},
        "augmentation": MOVES if way == "augmented" else [],
        "schedule": {"type": "cosine"},
        "epochs": steps * BATCH // TRAIN,
        "batch_size": BATCH,
        "early_stopping": None,
    }


def turned_sixes(http: httpx2.Client, model: str) -> tuple[float, int]:
    """The share of the test images' sixes that the model calls nines once they are turned by 180 degrees, and how many they are."""
    held = np.load(DATA / "mnist" / "test.npz")
    sixes = held["x"][:TEST][held["y"][:TEST] == 6][:, ::-1, ::-1]
    answer = http.post(f"/api/v1/models/{model}/predict", json={"inputs": sixes.tolist()})
    if answer.status_code != 200:
        raise SystemExit(answer.text)
    said = np.array(answer.json()["targets"]["y"]["prediction"])
    return float((said == "9").mean()), len(sixes)


def refused(http: httpx2.Client) -> bool:
    """Whether the built-in digits refuse a turn by 180 degrees, at the value, and take one by 10."""
    job: Answer = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}}
    answer = http.post("/api/v1/jobs", json={**job, "augmentation": [{"type": "rotate", "degrees": 180.0}]})
    (error,) = answer.json()["errors"]
    print(f"digits, 180 degrees: {answer.status_code} {answer.json()['type']} at {error['pointer']}: {error['message']}")
    small = http.post("/api/v1/jobs:validate", json={**job, "augmentation": [{"type": "rotate", "degrees": 10.0}]})
    told = (answer.status_code, answer.json()["type"], error["pointer"], small.status_code)
    return told == (422, "/problems/breaks-invariance", "/augmentation/0/degrees", 200)


def said(what: str, value: str, holds: bool) -> bool:
    """Print a line."""
    print(f"{what:52s} {value:28s} {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    with service() as (http, _):
        test = upload_mnist(http, TRAIN, TEST, schema=DECLARED)
        errors: dict[str, list[float]] = {way: [] for way in WAYS}
        nines: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
        for way in WAYS:
            for seed in range(given.seeds):
                job, seconds = run(http, spec(way, seed, test))
                errors[way].append(report(http, job)["splits"]["test"]["error"])
                print(f"{way:10s} seed {seed}: error {100 * errors[way][-1]:.2f} % after {seconds:.0f} s", flush=True)
                nines[way].append(turned_sixes(http, job["model"]))
        mean = {way: float(np.mean(found)) for way, found in errors.items()}
        shares = {way: float(np.mean([found for found, _ in nines[way]])) for way in WAYS}
        held = [
            said(
                f"augmented over plain error, at most {AUGMENTED_MOST}",
                f"{mean['augmented'] / mean['plain']:.3f} ({100 * mean['augmented']:.2f} %, {100 * mean['plain']:.2f} %)",
                mean["augmented"] <= AUGMENTED_MOST * mean["plain"],
            ),
            said(
                f"dropout over plain error, at most {DROPOUT_MOST}",
                f"{mean['dropout'] / mean['plain']:.3f} ({100 * mean['dropout']:.2f} %)",
                mean["dropout"] <= DROPOUT_MOST * mean["plain"],
            ),
            said(
                f"{nines['plain'][0][1]} sixes, turned by 180, called 9, at least {100 * NINES_LEAST:.0f} %",
                f"{100 * shares['augmented']:.0f} % (plain {100 * shares['plain']:.0f} %)",
                shares["augmented"] >= NINES_LEAST,
            ),
            said("a turn by 180 degrees refused, one by 10 taken", "", refused(http)),
        ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
