"""What keeping the best weights and a checkpoint costs the training thread at an epoch's end: 3 M parameters with Adam's moments.

The wall time of `keep_best`, of asking for a checkpoint, and of waiting for its copies before the next step moves a weight;
the copies themselves are made while the next gradient is computed.

Run on an idle machine: python -m benchmarks.checkpoints
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.workbench import CPU, synthetic
from service.storage.files import Folder
from workers.training.checkpointing import Writer
from workers.training.run import BEST, start
from workers.training.steps import step
from workers.training.task import Task

HIDDEN, INPUTS, EPOCHS, STEPS, MOST_MS = 1400, 784, 12, 10, 4.0


def main() -> int:
    torch.set_num_threads(1)
    made = synthetic(64 * (STEPS + 4), INPUTS, architecture={"type": "mlp", "hidden": [HIDDEN, HIDDEN]})
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    records: list[Any] = []
    writer = Writer(Folder(Path(tempfile.mkdtemp())), "jobs/job_x/000001-0", records.append)
    found: dict[str, list[float]] = {"best weights": [], "asking for a checkpoint": [], "waiting for its copies": [], "in all": []}
    waited = 0.0

    def settle() -> None:
        nonlocal waited
        began = time.perf_counter()
        writer.settled()
        waited = time.perf_counter() - began

    for _ in range(EPOCHS):
        order = task.batches.order(run.streams("order"))
        run.order = None
        for number, batch in enumerate(task.batches.walk(order, 0)):
            step(run, task, batch)
            if number == 0 and records:
                found["waiting for its copies"].append(waited * 1e3)
        writer.wait()
        began = time.perf_counter()
        run.keep_best(0)
        kept = time.perf_counter()
        writer.save(*run.capture(), {}, lasting=BEST)
        run.settle = settle
        found["best weights"].append((kept - began) * 1e3)
        found["asking for a checkpoint"].append((time.perf_counter() - kept) * 1e3)
    writer.finish()
    # The first two epochs make the memory that later ones copy into.
    found["in all"] = [sum(parts) for parts in zip(*(found[name][1:] for name in list(found)[:3]), strict=False)]
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    medians = {name: statistics.median(values[1:]) for name, values in found.items()}
    for name, value in medians.items():
        print(f"{name:26s} {value:6.2f} ms at an epoch's end, {parameters:,} parameters", flush=True)
    holds = medians["in all"] <= MOST_MS
    print(f"{'':26s} at most {MOST_MS} ms   {'holds' if holds else 'FALLS SHORT'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
