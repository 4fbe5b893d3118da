"""The training loop with metrics, stopping and cancel against the same steps by hand, and with penalties against the plain ones.

By hand means torch's own fused Adam: what a user pays for all of ours. `benchmarks.penalties` has each penalty over our plain step.

Run on an idle machine: python -m benchmarks.loop
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.penalties import NET, PENALTIES
from benchmarks.timing import paired, verdict
from benchmarks.workbench import CPU, material
from service.tricks.dropout import SCALED, Sampled
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

EPOCHS = 40


def ours(**fields: Any) -> Callable[[], None]:
    """The whole loop on digits."""
    made = material(epochs=EPOCHS, early_stopping={"patience": 1000}, **fields)

    def work() -> None:
        run = start(made, (0,), CPU)
        for _ in train(run, Task(made, run, CPU)):
            pass

    return work


def by_hand(**fields: Any) -> Callable[[], None]:
    """The same steps: views of a permuted tensor, fused Adam, nothing measured, nothing stopped."""
    made = material(epochs=EPOCHS, **fields)

    def work() -> None:
        run = start(made, (0,), CPU)
        x = torch.from_numpy(made.inputs[made.parts.train]).float()
        y = made.labels["label"][torch.from_numpy(made.parts.train)]
        gate = Sampled([torch.Generator().manual_seed(0)], 64) if made.spec.architecture.drops else SCALED
        network = run.network
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        for _ in range(EPOCHS):
            order = torch.randperm(len(x), generator=run.only.streams["order"])
            px, py = x[order], y[order]
            for at in range(0, len(x), 64):
                loss = F.cross_entropy(network(px[at : at + 64], gate)["label"], py[at : at + 64])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    return work


def main() -> int:
    torch.set_num_threads(1)
    held = []
    for name, net in (("plain", NET), ("dropout .5", {**NET, "dropout": 0.5})):
        held.append(verdict(f"loop over by hand, 64-128-128-10, {name}", paired(ours(architecture=net), by_hand(architecture=net)), 1.05))
    hand = by_hand(architecture=NET)
    for name, regularizers in PENALTIES.items():
        if regularizers:
            ratio = paired(ours(architecture=NET, regularizers=regularizers), hand)
            print(f"{name}, whole loop over plain steps by hand: {ratio}", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
