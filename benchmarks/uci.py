"""Deep ensembles of 5 on published split 0 of UCI sets, over HTTP: python -m benchmarks.uci

Bounds: the published mean + 2 sd over splits (Lakshminarayanan et al. 2017, table 1).
"""

import json
import sys

from benchmarks.service import DATA, present, report, run, service

BOUNDS = {
    "concrete": (6.03 + 2 * 0.58, 3.06 + 2 * 0.18),
    "energy": (2.09 + 2 * 0.29, 1.38 + 2 * 0.22),
    "yacht": (1.58 + 2 * 0.48, 1.18 + 2 * 0.21),
}


def main() -> int:
    held = []
    with service() as (http, _):
        for name, (most_rmse, most_nll) in BOUNDS.items():
            content = present(DATA / "uci" / f"{name}.csv").read_bytes()
            http.post("/api/v1/datasets", files={"file": (f"{name}.csv", content)}, data={"name": name}).raise_for_status()
            test = json.loads((DATA / "uci" / f"{name}.splits.json").read_text())["test_rows"][0]
            spec = {
                "dataset": name,
                "split": {"test_rows": test},
                "targets": [{"name": "y", "task": "regression", "loss": "gaussian_nll"}],
                "architecture": {"type": "mlp", "hidden": [50]},
                "ensemble": {"size": 5},
                "optimizer": {"type": "adam", "learning_rate": 0.01},
                "epochs": 40,
                "batch_size": 100,
            }
            job, seconds = run(http, spec)
            found = report(http, job)["splits"]["test"]
            holds = found["rmse"] <= most_rmse and found["nll"] <= most_nll
            held.append(holds)
            print(
                f"{name:10s} rmse {found['rmse']:.3f} (at most {most_rmse:.2f})  nll {found['nll']:.3f} (at most {most_nll:.2f})  "
                f"mixture {found['nll_mixture']:.3f}  {seconds:.1f} s  {'holds' if holds else 'FALLS SHORT'}",
                flush=True,
            )
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
