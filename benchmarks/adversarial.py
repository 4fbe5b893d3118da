"""Adversarial training over plain training: python -m benchmarks.adversarial [--pairs N]

An epoch on 5,000 rows of MNIST, 784-400-400-10, and on digits, 64-128-128-10, batches of 64, by the whole loop with its
validation as in `benchmarks.loop`; beside it the steps alone. In theory, a pass forward, to the weights or to the inputs counted
as one, PGD-10 takes 11 plain steps where every gradient is that of the weights too, and 23 / 3 where it is that of the inputs alone.
Of 784-400-400-10 a plain step is cheaper: it needs no gradient of its inputs. The mix of FGSM (weight .5) learns from both losses:
three plain steps in the usual loop, two where the clean pass gives the slope.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.service import DATA
from benchmarks.timing import paired, verdict
from benchmarks.workbench import CPU, material, of_arrays
from service.inference.material import Material
from workers.training.loop import train
from workers.training.run import start
from workers.training.steps import step
from workers.training.task import Task

METHODS: dict[str, tuple[dict[str, Any], float | None]] = {
    "fgsm, weight 1": ({"method": "fgsm", "weight": 1.0}, 1.8),
    "fgsm, weight .5": ({"method": "fgsm", "weight": 0.5}, None),
    "pgd-10": ({"method": "pgd", "steps": 10}, 8.5),
    "fast": ({"method": "fast"}, None),
    "trades-10": ({"method": "trades", "steps": 10}, None),
    "vat": ({"method": "vat"}, None),
}


def mnist(**fields: Any) -> Material:
    """Some rows of MNIST, pixels from 0 to 1."""
    held = np.load(DATA / "mnist" / "train.npz")
    x, y = (held["x"][:5000] / 255).astype(np.float32), held["y"][:5000]
    return of_arrays("mnist", x, y, architecture={"type": "mlp", "hidden": [400, 400]}, **fields)


def digits(**fields: Any) -> Material:
    return material(architecture={"type": "mlp", "hidden": [128, 128]}, **fields)


def loop(made: Material) -> Callable[[], None]:
    """An epoch by the whole loop, validation and all, as in `benchmarks.loop`."""

    def work() -> None:
        run = start(made, (0,), CPU)
        for _ in train(run, Task(made, run, CPU)):
            pass

    return work


def steps(made: Material) -> Callable[[], None]:
    """An epoch's steps alone, their batches at hand."""
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    run.network.train()
    batches = list(task.batches.walk(task.batches.order(run.streams("order")), 0))

    def work() -> None:
        for batch in batches:
            step(run, task, batch)

    return work


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    if not (DATA / "mnist" / "train.npz").exists():
        print(f"{DATA / 'mnist'} is absent: MNIST is not part of the project, and only digits are measured")
    held = []
    for name, made, epsilon in (("mnist", mnist, 0.25), ("digits", digits, 2.0)):
        if name == "mnist" and not (DATA / "mnist" / "train.npz").exists():
            continue
        plain = made(epochs=1)
        for method, (fields, most) in METHODS.items():
            moved = made(epochs=1, adversarial_training={"epsilon": epsilon, **fields})
            alone = paired(steps(moved), steps(plain), pairs=pairs)
            ratio = paired(loop(moved), loop(plain), pairs=pairs)
            # Of the small network Python and autograd are more than half of a step, so that passes alone do not say what it costs.
            if most is not None and name == "mnist":
                held.append(verdict(f"{name}, {method} over plain training", ratio, most))
            else:
                print(f"{f'{name}, {method} over plain training':44s} {ratio}", flush=True)
            print(f"{'    its steps alone over plain ones':44s} {alone}", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
