"""The training loop with metrics, stopping and cancel against the same steps by hand; each penalty against a plain step.

By hand means torch's own fused Adam. A penalty is measured against our own plain loop, and, for what a user pays in all,
the loop with it against the plain steps by hand.

Run on an idle machine: python -m benchmarks.loop
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.timing import paired, verdict
from benchmarks.workbench import CPU, material
from service.tricks.dropout import SCALED, Sampled
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

EPOCHS = 40
NET = {"type": "mlp", "hidden": [128, 128]}
PENALTIES: dict[str, list[dict[str, Any]]] = {
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
    plain, hand = ours(architecture=NET), by_hand(architecture=NET)
    for name, regularizers in PENALTIES.items():
        penalized, most = ours(architecture=NET, regularizers=regularizers), 1.2 if "+" in name else 1.1
        held.append(verdict(f"{name} over a plain step", paired(penalized, plain), most))
        verdict(f"{name}, whole loop over plain steps by hand", paired(penalized, hand), most)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
