"""An ensemble over one network: wall time of k members on two cores, over one member by a plain autograd loop with fused Adam.

Dropout .5, batch 64, bootstrap, own order, masks and initialization for each member, as a job has them; two processes of one
thread take half of the members each, as two shards would. Run on an idle machine: python -m benchmarks.members [--rounds N]
"""

import argparse
import statistics
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.workbench import CPU, synthetic
from workers.engines import Planner
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

BATCH = 64


class Case(NamedTuple):
    """A net, its members, and the bounds on the ratio."""

    inputs: int
    hidden: tuple[int, ...]
    members: int
    required: float
    aim: float
    epochs: int

    def __str__(self) -> str:
        return f"{'-'.join(map(str, (self.inputs, *self.hidden, 10)))}, k={self.members}"


SMALL, WIDE = (64, (128, 128)), (784, (256, 256))
CASES = (
    Case(*SMALL, 5, 2.0, 1.3, 24),
    Case(*SMALL, 10, 3.5, 2.0, 24),
    Case(*SMALL, 20, 6.0, 3.0, 16),
    Case(*SMALL, 50, 14.0, 7.0, 8),
    Case(*WIDE, 10, 6.5, 4.0, 4),
)
ROWS = 4096


def spec(case: Case) -> dict[str, Any]:
    """The job of a case; nothing is measured but the training loss, since the loop by hand measures nothing else."""
    return {
        "architecture": {"type": "mlp", "hidden": list(case.hidden), "dropout": 0.5},
        "ensemble": {"size": case.members, "bootstrap": True},
        "epochs": case.epochs,
        "batch_size": BATCH,
        "early_stopping": None,
        "split": {"validation": 0, "test": 0},
    }


def shard(pipe: Connection, case: Case, members: tuple[int, ...], stack: int) -> None:
    """Train some members whenever told to, and say when it is done."""
    torch.set_num_threads(1)
    made = synthetic(ROWS, case.inputs, **spec(case))
    while pipe.recv():
        for at in range(0, len(members), stack):
            group = members[at : at + stack]
            run = start(made, group, CPU, stacked=len(group) > 1)
            for _ in train(run, Task(made, run, CPU)):
                pass
        pipe.send(True)


def one(case: Case) -> float:
    """Seconds of one member by hand: torch's modules, its dropout, its fused Adam, views of a permuted tensor."""
    stream = np.random.default_rng(0)
    x = torch.from_numpy(stream.normal(size=(ROWS, case.inputs)).astype(np.float32))
    y = torch.from_numpy(stream.integers(0, 10, ROWS))
    layers: list[nn.Module] = []
    for before, after in zip((case.inputs, *case.hidden), case.hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.5)]
    net = nn.Sequential(*layers, nn.Linear(case.hidden[-1], 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    began = time.perf_counter()
    for _ in range(case.epochs):
        order = torch.randperm(ROWS)
        px, py = x[order], y[order]
        for at in range(0, ROWS, BATCH):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(px[at : at + BATCH]), py[at : at + BATCH]).backward()
            optimizer.step()
    return time.perf_counter() - began


def measure(case: Case, rounds: int, processes: int) -> tuple[list[float], list[float]]:
    """Seconds of the ensemble and of one member, in alternation; the first round warms up."""
    context, halves = get_context("forkserver"), np.array_split(np.arange(case.members), processes)
    parameters = sum(a * b + b for a, b in zip((case.inputs, *case.hidden), (*case.hidden, 10), strict=True))
    pipes = []
    for half in halves:
        ours, theirs = context.Pipe()
        stack = Planner()({"parameters": parameters}, len(half))["stack"]
        context.Process(target=shard, args=(theirs, case, tuple(half.tolist()), stack), daemon=True).start()
        pipes.append(ours)
    ensembles, singles = [], []
    for i in range(rounds + 1):
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()
        took, alone = time.perf_counter() - began, one(case)
        if i:
            ensembles.append(took)
            singles.append(alone)
    for pipe in pipes:
        pipe.send(False)
    return ensembles, singles


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    held = []
    for case in CASES:
        ensembles, singles = measure(case, given.rounds, given.processes)
        ratios = [a / b for a, b in zip(ensembles, singles, strict=True)]
        ratio, alone = statistics.median(ratios), statistics.median(singles)
        held.append(ratio <= case.required)
        told = f"{ratio:6.2f} ({min(ratios):.2f} to {max(ratios):.2f}), one {alone:.2f} s   at most {case.required}, aim {case.aim}"
        print(f"{case!s:28s} {told}   {'holds' if held[-1] else 'FALLS SHORT'}", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
