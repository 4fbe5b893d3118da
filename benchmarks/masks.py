"""What dropout's masks take of a training step, alone and with ten members side by side: python -m benchmarks.masks [--pairs N]

The share is that of a step with dropout which the same step without it does not need, by user CPU time.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import paired
from benchmarks.workbench import CPU, synthetic
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

MOST = 0.20
ROWS, EPOCHS = 4096, {1: 10, 10: 3}


def work(inputs: int, hidden: list[int], members: int, rate: float) -> Callable[[], None]:
    """Some epochs of members side by side, with which nothing is measured but their loss."""
    architecture: dict[str, Any] = {"type": "mlp", "hidden": hidden, "dropout": rate}
    parts = {"validation": 0, "test": 0}
    made = synthetic(
        ROWS, inputs, architecture=architecture, ensemble={"size": members}, epochs=EPOCHS[members], early_stopping=None, split=parts
    )

    def trained() -> None:
        run = start(made, tuple(range(members)), CPU, stacked=members > 1)
        for _ in train(run, Task(made, run, CPU)):
            pass

    return trained


def held(inputs: int, hidden: list[int], members: int, pairs: int) -> bool:
    """Print a line; the share holds when the upper end of its interval does."""
    ratio = paired(work(inputs, hidden, members, 0.5), work(inputs, hidden, members, 0.0), pairs=pairs)
    share, low, high = (1 - 1 / of for of in ratio)
    said = "holds" if high <= MOST else "FALLS SHORT"
    name = f"{'-'.join(map(str, (inputs, *hidden, 10)))}, k={members}"
    print(f"{name:24s} {share:.3f} [{low:.3f}, {high:.3f}] of a step   at most {MOST}   {said}", flush=True)
    return high <= MOST


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=12)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    nets = ((64, [128, 128]), (784, [256, 256]))
    results = [held(*net, members, pairs) for net in nets for members in EPOCHS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
