"""Plain against residual over HTTP: perceptrons of width 64 with batch norm on 10,000 images of MNIST, 8, 20 and 56 layers deep.

400 steps of Adam 2e-3 with a cosine in batches of 125 (five epochs), seed 0. Twins have as many parameters; errors are those of the
trained network in evaluation. Run: python -m benchmarks.degradation [--init torch|he|glorot]
"""

import argparse
import json
import sys

from benchmarks.service import Answer, report, run, service, upload_mnist

DEPTHS = (8, 20, 56)
TRAIN, TEST = 10_000, 10_000
PLAIN_LEAST, RESIDUAL_MOST = 0.50, 0.06
"""Training errors of 56 layers: of the plain net at least, of the residual one at most."""


def posted(depth: int, residual: bool, test_rows: list[int], init: str) -> Answer:
    """The spec: a stem, pairs of layers, and the head, `depth` layers with weights."""
    net = {"type": "mlp", "hidden": [64] * (depth - 1), "batch_norm": True, "bias": False, "init": init, "residual": residual}
    name = f"{'residual' if residual else 'plain'}-{depth}"
    return {
        "name": name, "dataset": "mnist", "split": {"test_rows": test_rows}, "architecture": net,
        "optimizer": {"type": "adam", "learning_rate": 2e-3}, "schedule": {"type": "cosine"},
        "batch_size": 125, "epochs": 5, "early_stopping": None, "seed": 0,
    }  # fmt: skip


def line(name: str, value: float, bound: float, *, most: bool) -> bool:
    """Print a figure and whether it holds."""
    holds = value < bound if most else value > bound
    print(
        f"{name}: {100 * value:.1f} %, {'below' if most else 'above'} {100 * bound:g} %: {'holds' if holds else 'FALLS SHORT'}", flush=True
    )
    return holds


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--init", default="torch", choices=("torch", "he", "glorot"))
    init = parser.parse_args().init
    errors: dict[tuple[int, bool], float] = {}
    losses: dict[tuple[int, bool], float] = {}
    parameters: dict[tuple[int, bool], int] = {}
    with service() as (http, _):
        test_rows = upload_mnist(http, TRAIN, TEST)
        shown = posted(56, True, test_rows, init)
        print(json.dumps({**shown, "split": {"test_rows": [test_rows[0], "...", test_rows[-1]]}}))
        for depth in DEPTHS:
            for residual in (False, True):
                spec = posted(depth, residual, test_rows, init)
                job, seconds = run(http, spec)
                model = http.get(f"/api/v1/models/{job['model']}").json()
                found = report(http, job)["splits"]
                train, test, which = found["train"], found["test"], (depth, residual)
                errors[which], losses[which], parameters[which] = train["error"], train["loss"], model["parameters"]
                print(
                    f"{spec['name']:12s} {model['parameters']:7d} parameters, train loss {train['loss']:.3f}, "
                    f"train / test error {100 * train['error']:.1f} / {100 * test['error']:.1f} %, {seconds:.0f} s",
                    flush=True,
                )
    held = [line("training error of plain-56", errors[56, False], PLAIN_LEAST, most=False)]
    held.append(line("training error of residual-56", errors[56, True], RESIDUAL_MOST, most=True))
    ratio = losses[56, False] / losses[8, False]
    held.append(ratio > 5)
    print(f"training loss of plain-56 over plain-8: {ratio:.1f}, above 5: {'holds' if ratio > 5 else 'FALLS SHORT'}")
    held.append(all(parameters[depth, False] == parameters[depth, True] for depth in DEPTHS))
    print(f"twins have equally many parameters: {'holds' if held[-1] else 'FALLS SHORT'}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
