"""Ensembles and Monte Carlo dropout under attack over HTTP: python -m benchmarks.deployed_attacks

MNIST, five MLPs 784-256-256-10 with dropout .5 on pixels from 0 to 1, Adam 1e-3, 1,200 steps of 128; PGD-20 of .1 of the
pixels' range with steps of .02 on the first 500 test rows: on the ensemble's own loss beside one member's, and on ten masks
through the mean gradient of ten others. The model must be the same afterwards, bit by bit.
"""

import sys
from typing import Any

import httpx2
import numpy as np

from benchmarks.service import DATA, claim, present, report, run, service, upload_mnist

EPSILON, ROWS = 25.5, 500
PGD = {"type": "pgd", "steps": 20, "step_size": 5.1, "bounds": [0, 255]}
TRAIN: dict[str, Any] = {
    "name": "five", "dataset": "mnist", "preprocessing": {"normalize": "minmax"}, "ensemble": {"size": 5}, "batch_size": 128,
    "architecture": {"type": "mlp", "hidden": [256, 256], "dropout": {"hidden": 0.5}}, "max_steps": 1200, "early_stopping": None,
}  # fmt: skip


def robustness(http: httpx2.Client, attacks: list[dict[str, Any]], **asked: Any) -> dict[str, Any]:
    """The result of a job at that epsilon."""
    spec = {"kind": "robustness", "model": "five", "attacks": attacks, "epsilons": [EPSILON], "rows": ROWS, **asked}
    job, seconds = run(http, spec)
    result: dict[str, Any] = job["result"]
    left = [shown["curve"][0]["accuracy"] for shown in result["attacks"]]
    shown = ", ".join(f"{100 * accuracy:.1f}" for accuracy in left)
    print(f"{asked}: clean {100 * result['clean']['accuracy']:.1f} %, under attack {shown} %   ({seconds:.0f} s)", flush=True)
    return {**result, "left": left}


def at_once(http: httpx2.Client, rows: Any, labels: list[str], **attack: Any) -> float:
    """Accuracy by the attack endpoint, on the rows that were right before; null is a row that was not."""
    body = {"inputs": rows.tolist(), "labels": labels, "attack": {**PGD, "epsilon": EPSILON, **attack}, "mode": "ensemble"}
    answer = http.post("/api/v1/models/five/attack", json=body)
    if answer.status_code != 200:
        raise SystemExit(answer.text)
    return answer.json()["success"].count(False) / len(labels)


def main() -> int:
    held = []
    with service() as (http, _):
        test = upload_mnist(http)
        job, seconds = run(http, {**TRAIN, "split": {"test_rows": test}})
        print(f"trained in {seconds:.0f} s: test error {100 * (1 - report(http, job)['splits']['test']['accuracy']):.1f} %", flush=True)
        data = np.load(present(DATA / "mnist" / "test.npz"))
        x, y = data["x"][:ROWS], [str(label) for label in data["y"][:ROWS]]
        probe = {"inputs": x[:50].tolist(), "mode": "ensemble"}
        before = [http.get("/api/v1/models/five").json()["sha256"], http.post("/api/v1/models/five/predict", json=probe).json()["targets"]]
        direct, member = at_once(http, x, y), at_once(http, x, y, source={"members": 0})
        held.append(
            claim(f"endpoint: {100 * direct:.1f} % under the ensemble's loss, {100 * member:.1f} % under one member's", direct <= member)
        )
        masks = robustness(http, [PGD], mode="monte_carlo", samples=10)
        held.append(claim(f"ten masks, gradient over ten others: {100 * masks['left'][0]:.1f} %, at most 15 %", masks["left"][0] <= 0.15))
        kinds = [PGD, {**PGD, "source": {"members": 0}}, {**PGD, "loss": "margin"}, {"type": "apgd", "steps": 20, "bounds": [0, 255]}]
        whole = robustness(http, kinds, mode="ensemble")
        held.append(claim(f"job: {100 * whole['left'][0]:.1f} % and {100 * whole['left'][1]:.1f} %", whole["left"][0] <= whole["left"][1]))
        shown = [(attack["type"], attack.get("loss")) for attack in whole["attacks"]]
        told = ("pgd", "margin") in shown and ("apgd", "dlr") in shown
        flat = [attack["curve"][0]["zero_gradients"] for attack in whole["attacks"]]
        held.append(claim(f"the result holds margin, DLR and the share of zero gradients {flat[0]}", told and None not in flat))
        after = [http.get("/api/v1/models/five").json()["sha256"], http.post("/api/v1/models/five/predict", json=probe).json()["targets"]]
        held.append(claim("weights and answers are the same as before, bit by bit", after == before))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
