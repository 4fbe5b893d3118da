"""MNIST 784-1024-1024-1024-10, dropout .2/.5, max-norm, 20 epochs, over HTTP: python -m benchmarks.mnist

Published: 1.06 % after a million updates (Srivastava et al. 2014, table 2).
"""

import sys

from benchmarks.service import report, run, service, upload_mnist

MOST = 0.017


def main() -> int:
    with service() as (http, _):
        test = upload_mnist(http)
        spec = {
            "name": "mnist",
            "dataset": "mnist",
            "split": {"test_rows": test, "validation": 1 / 12},
            "architecture": {"type": "mlp", "hidden": [1024, 1024, 1024], "init": "he", "dropout": {"input": 0.2, "hidden": 0.5}},
            "regularizers": [{"type": "max_norm", "limit": 2.0}],
            "optimizer": {"type": "adam", "learning_rate": 1e-3},
            "schedule": {"type": "cosine"},
            "epochs": 20,
            "batch_size": 128,
            "early_stopping": {"monitor": "error", "patience": 20},
        }
        job, seconds = run(http, spec)
        found = report(http, job)["splits"]["test"]
    print(f"MNIST test error {100 * found['error']:.2f} % (nll {found['nll']:.4f}) after {seconds:.0f} s; at most {100 * MOST:.1f} %")
    return 0 if found["error"] <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
