"""Each penalty against a plain step of the same network, and all together.

The steps are those of training (batch, loss, backward, penalty, optimizer), without what an epoch's end adds to both. Blocks of 20 steps
of each kind take turns within one process, so that whatever else the machine does meets all of them alike; what counts is CPU time.
A round is one block of each kind; the first half of the rounds is the first half of training, which a projection treats otherwise.

Run on an idle machine: python -m benchmarks.penalties [--rounds 200]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.timing import of, verdict
from benchmarks.workbench import CPU, material
from workers.training.batches import Batch
from workers.training.run import start
from workers.training.steps import step
from workers.training.task import Task

NET = {"type": "mlp", "hidden": [128, 128]}
PLAIN = "plain"
STEPS = 20
PENALTIES: dict[str, list[dict[str, Any]]] = {
    PLAIN: [],
    "l2": [{"type": "l2", "alpha": 1e-4}],
    "l2 decoupled": [{"type": "l2", "alpha": 1e-4, "decoupled": True}],
    "l1": [{"type": "l1", "alpha": 1e-5}],
    "elastic_net": [{"type": "elastic_net", "l1": 1e-5, "l2": 1e-4}],
    "max_norm": [{"type": "max_norm", "limit": 3.0}],
    "l0 gates": [{"type": "l0", "alpha": 1e-4}],
    "l0 projection": [{"type": "l0", "method": "projection", "keep": 0.1}],
    "tie": [{"type": "tie", "between": ["hidden.1", "hidden.1"], "transposed": True, "alpha": 1e-3}],
    "l1 + l2 + max_norm": [{"type": "l2", "alpha": 1e-4}, {"type": "l1", "alpha": 1e-5}, {"type": "max_norm", "limit": 3.0}],
}


class Steps:
    """A network in training, whose steps are taken in blocks."""

    def __init__(self, regularizers: list[dict[str, Any]], rounds: int) -> None:
        steps = STEPS * (rounds + 1)
        made = material(architecture=NET, regularizers=regularizers, epochs=-(-steps // 20), max_steps=steps, early_stopping=None)
        self._run = start(made, (0,), CPU)
        self._task = Task(made, self._run, CPU)
        self._batches = self._walk()
        self._run.network.train()

    def _walk(self) -> Iterator[Batch]:
        while True:
            yield from self._task.batches.walk(self._task.batches.order(self._run.streams("order")), 0)

    def block(self) -> float:
        """CPU seconds of the next block of steps."""
        began = time.process_time()
        for _ in range(STEPS):
            step(self._run, self._task, next(self._batches))
            self._run.step += 1
        return time.process_time() - began


def main() -> int:
    torch.set_num_threads(1)
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=200)
    rounds = options.parse_args().rounds
    kinds = {name: Steps(regularizers, rounds) for name, regularizers in PENALTIES.items()}
    for kind in kinds.values():  # warm up
        kind.block()
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds):
        order = list(kinds)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            times[name].append(kinds[name].block())
    print(f"a plain step takes {1e6 * statistics.median(times[PLAIN]) / STEPS:.0f} us")
    ratios = {name: of([own / plain for own, plain in zip(found, times[PLAIN], strict=True)]) for name, found in times.items()}
    held = [verdict(name, ratio, 1.2 if "+" in name else 1.1) for name, ratio in ratios.items() if name != PLAIN]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
