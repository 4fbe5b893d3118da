"""Steps of adversarial training over plain ones: python -m benchmarks.adversarial [--pairs N]

On MNIST, 784-400-400-10, and on digits, 64-128-128-10, batches of 64. In theory, counting a forward pass as one, a backward
pass to the weights as one and to the inputs as one, PGD-10 takes 11 times a plain step where every gradient is that of the
weights too. The mix of FGSM (weight .5) learns from both losses, so that in theory it takes three plain steps in the usual loop.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.service import DATA
from benchmarks.timing import paired, verdict
from benchmarks.workbench import CPU, arrays, material
from service.inference.material import Material
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
STEPS = {"mnist": 20, "digits": 100}


def mnist(**fields: Any) -> Material:
    """A twelfth of MNIST, pixels from 0 to 1."""
    held = np.load(DATA / "mnist" / "train.npz")
    x, y = (held["x"][:5000] / 255).astype(np.float32), held["y"][:5000]
    return arrays("mnist", x, y, architecture={"type": "mlp", "hidden": [400, 400]}, **fields)


def digits(**fields: Any) -> Material:
    return material(architecture={"type": "mlp", "hidden": [128, 128]}, **fields)


def steps(made: Material, count: int) -> Callable[[], None]:
    """So many steps on the first batches, with all that a step is but an epoch's end."""
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    run.network.train()
    batches = list(task.batches.walk(task.batches.order(run.streams("order")), 0))

    def work() -> None:
        for i in range(count):
            step(run, task, batches[i % (len(batches) - 1)])

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
        plain = steps(made(), STEPS[name])
        for method, (fields, most) in METHODS.items():
            work = steps(made(adversarial_training={"epsilon": epsilon, **fields}), STEPS[name])
            ratio = paired(work, plain, pairs=pairs)
            # The bounds are those of the larger network: of the small one Python and autograd are the half of a step.
            if most is None or name == "digits":
                print(f"{f'{name}, {method} over a plain step':44s} {ratio}", flush=True)
            else:
                held.append(verdict(f"{name}, {method} over a plain step", ratio, most))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
