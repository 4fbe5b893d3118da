"""The same nets by Temper's trainer: python -m benchmarks.peer_programs.ours {single,bagged} FOLDER

Training as a worker does it, in this process; members of a bag in two processes of one thread, as two shards would be.
"""

import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer_programs.turns import Predict, data, take_turns
from service.data.columns import Columns
from service.data.formats import Origin
from service.data.parse import Request, parse
from service.inference.material import Material, prepare
from service.resolving import Source, resolve
from service.settings import Settings
from service.spec import TrainSpec
from workers.engines import Planner
from workers.training.loop import train
from workers.training.run import start
from workers.training.task import Task

CPU = torch.device("cpu")


def spec(plan: dict[str, Any], rows: int, seed: int) -> dict[str, Any]:
    """The job; nothing is measured but the training loss, since the peers measure nothing else."""
    return {
        "dataset": "rows",
        "split": {"test_rows": list(range(plan["train"], rows))},
        "architecture": {"type": "mlp", "hidden": plan["widths"][1:-1], "dropout": plan["dropout"] or None},
        "ensemble": {"size": plan["members"], "bootstrap": plan["members"] > 1},
        "epochs": plan["epochs"],
        "batch_size": plan["batch"],
        "early_stopping": None,
        "seed": seed,
    }


class Prepared:
    """The rows as a dataset of the service, and its test rows as a tensor."""

    def __init__(self, folder: str, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.home = Path(tempfile.mkdtemp(prefix="temper-bench-"))
        (self.home / "source").write_bytes(Path(folder, "rows.npz").read_bytes())
        parse(Request(source=str(self.home / "source"), folder=str(self.home), origin=Origin(filename="rows.npz"), declared={}))
        held = Columns(self.home)
        self.rows = held.description.rows
        self.source = Source("ds_rows", "rows", held.description, self.home)
        self.test_x = torch.from_numpy(np.load(f"{folder}/rows.npz")["x"][plan["train"] :])

    def material(self, seed: int) -> Material:
        """What the job with this seed trains on."""
        resolved = resolve(spec(self.plan, self.rows, seed), lambda _: self.source, Settings()).spec
        return prepare(TrainSpec.model_validate(resolved), Columns(self.home))

    def members(self, seed: int, members: tuple[int, ...]) -> Callable[[], np.ndarray]:
        """Train members by the engine that a worker would choose; the sum of their probabilities on test [N, C]."""
        made = self.material(seed)
        parameters = sum(a * b + b for a, b in zip(self.plan["widths"][:-1], self.plan["widths"][1:], strict=True))
        size = Planner()({"parameters": parameters}, len(members))["stack"]
        runs = []
        for at in range(0, len(members), size):
            group = members[at : at + size]
            run = start(made, group, CPU, stacked=len(group) > 1)
            for _ in train(run, Task(made, run, CPU)):
                pass
            runs.append(run)

        def predict() -> np.ndarray:
            with torch.no_grad():
                said = [run.network.eval()(self.test_x)["y"].softmax(-1) for run in runs]
            summed: np.ndarray = sum(p if p.ndim == 2 else p.sum(0) for p in said).numpy()
            return summed

        return predict


def shard(pipe: Connection, folder: str, plan: dict[str, Any], members: tuple[int, ...]) -> None:
    """Train its members with every seed that comes; says when it is done, and what they say of the test rows when asked."""
    torch.set_num_threads(1)
    prepared = Prepared(folder, plan)
    pipe.send("ready")
    while (seed := pipe.recv()) is not None:
        predict = prepared.members(seed, members)
        pipe.send("done")
        pipe.recv()
        pipe.send(predict())


def bagged(folder: str, plan: dict[str, Any]) -> Callable[[int], Predict]:
    """The bag in two processes."""
    context, pipes = get_context("forkserver"), []
    for half in np.array_split(np.arange(plan["members"]), 2):
        here, there = context.Pipe()
        context.Process(target=shard, args=(there, folder, plan, tuple(half.tolist())), daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()

    def train_bag(seed: int) -> Predict:
        for pipe in pipes:
            pipe.send(seed)
        for pipe in pipes:
            pipe.recv()

        def predict() -> np.ndarray:
            for pipe in pipes:
                pipe.send("predict")
            said: np.ndarray = sum(pipe.recv() for pipe in pipes)
            return said

        return predict

    return train_bag


def main() -> None:
    kind, folder = sys.argv[1:]
    given = data(folder)
    torch.set_num_threads(1)
    if kind == "bagged":
        take_turns(bagged(folder, given.plan), given.test_y)
    else:
        prepared = Prepared(folder, given.plan)
        take_turns(lambda seed: prepared.members(seed, (0,)), given.test_y)


if __name__ == "__main__":
    main()
