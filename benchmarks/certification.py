"""What is certified on MNIST over HTTP: python -m benchmarks.certification [--seed N]

A small convolutional net, 16-32 channels of 4 x 4 with steps of 2 and 100 hidden units, trained on interval bounds at .1 of the pixels'
range (five epochs, 3,000 steps of 100), and its plain twin: clean, PGD-40 and verified error on the same 1,000 test rows. The same net
trained on noise of .25 for three epochs, smoothed with as much: certified accuracy of 200 test rows by radius, and rows moved by PGD
within their radius, asked again. Pixels run from 0 to 255.
"""

import argparse
import sys
from typing import Any

import httpx2

from benchmarks.service import Answer, run, service, upload_mnist

RANGE = 255.0
EPSILON, SIGMA = 0.1 * RANGE, 0.25 * RANGE
VERIFIED, SMOOTHED = 1000, 200
RADII = (0.0, 0.25, 0.5, 0.75)
EXPECTED = (97.5, 95.5, 92.5)
NET = {"type": "cnn", "channels": [16, 32], "kernel": 4, "stride": 2, "pool": "none", "hidden": [100]}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"epochs": 5},
    "ibp": {"epochs": 5, "adversarial_training": {"method": "ibp", "epsilon": EPSILON}, "schedule": {"type": "step", "every": 4}},
    "noise": {"epochs": 3, "adversarial_training": {"method": "noise", "std": SIGMA}},
}


def claim(words: str, holds: bool) -> bool:
    print(f"  {words:78s} {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds


def verified(http: httpx2.Client, name: str) -> tuple[tuple[float, float, float], Answer]:
    """Clean, PGD-40 and verified error in %, on the same rows, and the job's result."""
    attack = {"type": "pgd", "steps": 40}
    job, seconds = run(http, {"kind": "robustness", "model": name, "attacks": [attack], "epsilons": [EPSILON], "rows": VERIFIED})
    result: Answer = job["result"]
    attacked, bound = result["worst_case"][0]["accuracy"], result["certified"]["curve"][0]["verified_error"]
    found = 100 * (1 - result["clean"]["accuracy"]), 100 * (1 - attacked), 100 * bound
    print(f"{name:6s} errors in %: clean {found[0]:.1f}  PGD-40 {found[1]:.1f}  verified {found[2]:.1f}   ({seconds:.0f} s)", flush=True)
    return found, result


def ordered(result: Answer) -> bool:
    """Whether no row that an attack breaks counts as verified, and no row that was wrong."""
    pairs = zip(result["per_row"]["broken_at"], result["certified"]["per_row"], strict=True)
    return all(broken is None or held is None for broken, held in pairs)


def asked(http: httpx2.Client, path: str, body: Answer) -> Answer:
    answer = http.post(f"/api/v1/models/noise/{path}", json=body)
    if answer.status_code != 200:
        raise SystemExit(answer.text)
    found: Answer = answer.json()
    return found


def smoothed(http: httpx2.Client, rows: list[Any]) -> Answer:
    found: Answer = asked(http, "predict", {"inputs": rows, "smoothing": {"sigma": SIGMA, "n": 1000, "alpha": 0.001}})["targets"]["y"]
    return found


def certified(http: httpx2.Client, rows: list[Any], labels: list[str]) -> list[bool]:
    """Claims about the smoothed net."""
    found = smoothed(http, rows)
    radii = [
        radius / RANGE if radius is not None and said == label else -1.0
        for radius, said, label in zip(found["radius"], found["prediction"], labels, strict=True)
    ]
    shares = [100 * sum(radius >= least for radius in radii) / len(radii) for least in RADII]
    print(f"smoothed: certified accuracy {'  '.join(f'{s:.1f} at {r}' for s, r in zip(shares, RADII, strict=True))}", flush=True)
    held = [
        claim(f"smoothed: {share:.1f} % at {least}, {expected} +- 4", abs(share - expected) <= 4)
        for share, least, expected in zip(shares, RADII, EXPECTED, strict=False)
    ]
    held.append(claim(f"smoothed: no radius beyond .616, the largest is {max(radii):.3f}", max(radii) <= 0.616))
    inside = [i for i, radius in enumerate(radii) if radius > 0.5]
    attack = {"type": "pgd", "norm": "l2", "epsilon": 0.5 * RANGE, "steps": 40, "bounds": None}
    near = [rows[i] for i in inside]
    moved = asked(http, "attack", {"inputs": near, "labels": [labels[i] for i in inside], "attack": attack})
    again = smoothed(http, moved["inputs"])["prediction"]
    changed = sum(said is not None and said != labels[i] for i, said in zip(inside, again, strict=True))
    broke = sum(bool(success) for success in moved["success"])
    words = f"smoothed: of {len(inside)} rows moved by .5, within their radius, {changed} change their class"
    held.append(claim(words, changed == 0))
    print(f"  PGD at .5 in L2 changed the class of {broke} of them for the net without smoothing", flush=True)
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed, held = parser.parse_args().seed, []
    with service() as (http, _):
        test = upload_mnist(http)
        for name, fields in MODELS.items():
            spec = {"name": name, "dataset": "mnist", "split": {"test_rows": test}, "architecture": NET, "batch_size": 100, "seed": seed}
            _, seconds = run(http, {**spec, "preprocessing": {"normalize": "minmax"}, "early_stopping": None, **fields})
            print(f"{name:6s} trained in {seconds:.0f} s", flush=True)
            if name != "noise":
                (clean, attacked, bound), result = verified(http, name)
                held.append(claim(f"{name}: clean <= PGD-40 <= verified, and row by row", clean <= attacked <= bound and ordered(result)))
            if name == "ibp":
                held.append(claim(f"ibp: clean error {clean:.1f} %, at most 5 [3.0]", clean <= 5))
                held.append(claim(f"ibp: verified error {bound:.1f} %, at most 14 [9.7]", bound <= 14))
        items = http.get("/api/v1/datasets/mnist/rows", params={"offset": test[0], "limit": SMOOTHED}).json()["items"]
        held += certified(http, [item["values"]["x"] for item in items], [str(item["values"]["y"]) for item in items])
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
