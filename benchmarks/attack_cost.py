"""What attacks cost: PGD-20 on an MLP and a cnn beside ART and foolbox, and an ensemble beside one member.

`python -m benchmarks.attack_cost [--oracles .oracles/bin/python]`: without the oracles' environment only the ensemble is timed. Of
the oracles the best of three runs counts, on both sides; robust accuracy has to lie within half a point of theirs and never above.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.service import DATA, present
from benchmarks.timing import cpu, paired, verdict
from benchmarks.workbench import material
from service.inference.model import Model, serving
from service.inference.robustness import Subject
from service.tricks.attacks import PGD
from service.tricks.modes import Asking
from workers.training.checkpointing import pack

EPSILON, STEPS, ROWS = 25.5, 20, 1000
MOST_OF_ONE = 3.0
NETS: dict[str, dict[str, Any]] = {
    "mlp 784-256-256-10": {"type": "mlp", "hidden": [256, 256]},
    "cnn 8-16-64": {"type": "cnn", "channels": [8, 16], "hidden": [64]},
}
FASTER = {"mlp": {"art": 4.0, "art_tuned": 2.0, "foolbox": 1.5}, "cnn": {"art": 1.5, "foolbox": 1.0}}
"""By architecture, how many times as fast as each oracle at least."""


def subject(shape: tuple[int, ...], architecture: dict[str, Any], members: int) -> Subject:
    """Members with fresh weights before random rows; their own answers are the labels, so that all rows are attacked."""
    made = material(architecture=architecture, ensemble={"size": members})
    spec = made.network._replace(shape=shape)
    normalize = type(made.preprocess)(torch.full((1,), 127.5), torch.full((1,), 73.0))
    networks = [serving(type(made.build(None))(spec, normalize, made.scales, torch.Generator().manual_seed(i))) for i in range(members)]
    array = made.encoding.inputs[0].model_copy(update={"shape": shape, "low": 0.0, "high": 255.0})
    model = Model(made.spec, made.encoding.model_copy(update={"inputs": (array,)}), made.classes, tuple(networks), 0)
    x = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(0)) * 255
    found = Subject(model, Asking(members="all").axes(model), x, torch.zeros(ROWS, dtype=torch.int64))
    return Subject(model, found.axes, x, found.clean.prediction)  # type: ignore[union-attr]


def pgd(**fields: float) -> PGD:
    """PGD-20 from the clean point, with steps of 2.5 epsilon / 20."""
    return PGD(epsilon=EPSILON, steps=STEPS, random_start=False, bounds=(0.0, 255.0), **fields)  # type: ignore[arg-type]


def mnist(architecture: dict[str, Any]) -> Subject:
    """A network after two passes over MNIST's training rows, before its first test rows."""
    found = subject((28, 28), architecture, 1)
    parts = [np.load(present(DATA / "mnist" / f"{name}.npz")) for name in ("train", "test")]
    (x, y), (rows, labels) = ((torch.from_numpy(part["x"]).float(), torch.from_numpy(part["y"]).long()) for part in parts)
    network, stream = found.model.networks[0].train().requires_grad_(True), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(2):
        for batch in torch.randperm(len(x), generator=stream).split(128):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch])["label"], y[batch]).backward()
            optimizer.step()
    serving(network)
    return Subject(found.model, found.axes, rows[:ROWS].view(-1, 28, 28), labels[:ROWS])


def ensemble() -> bool:
    """Ten small members beside one of them."""
    ten, one = (subject((8, 8), {"type": "mlp", "hidden": [64]}, members) for members in (10, 1))
    # Steps so short that no answer changes: all rows go all the way on both sides.
    ratio = paired(lambda: ten.attack(pgd(step_size=1e-6)), lambda: one.attack(pgd(step_size=1e-6)), pairs=10)
    return verdict("PGD-20 on ten 64-64-10 over one", ratio, MOST_OF_ONE)


def best(work: Any, runs: int = 3) -> float:
    """The shortest of some runs, in seconds of user CPU: one thread on all sides, and other programs do not count."""
    return min(cpu(work) for _ in range(runs))


def beside(oracles: str, name: str) -> bool:
    """A net beside the oracles on the same weights and rows; rows that broke are left alone, which the oracles do not."""
    architecture = NETS[name]
    one = mnist(architecture)
    ours, left = best(lambda: one.attack(pgd())), float(one.attack(pgd()).standing.float().mean())
    with TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").write_bytes(pack(one.model.tensors()))
        torch.save({"x": one.x, "y": one.labels}, Path(folder) / "rows.pt")
        case = {"epsilon": EPSILON, "steps": STEPS, "step_size": 2.5 * EPSILON / STEPS, "high": 255.0}
        (Path(folder) / "case.json").write_text(json.dumps(case))
        subprocess.run([oracles, str(Path(__file__).parent / "oracles" / "time_pgd.py"), folder], check=True)
        found = json.loads((Path(folder) / "times.json").read_text())
    held = True
    print(f"{name}, PGD-{STEPS}, {ROWS} rows: {ours:.3f} s, accuracy {100 * left:.1f} %", flush=True)
    for oracle, least in FASTER[architecture["type"]].items():
        seconds, accuracy = found[oracle]
        holds = seconds / ours >= least and -0.005 - 1e-5 <= left - accuracy <= 1e-5
        held &= holds
        told = f"{oracle} {seconds:.3f} s, {100 * accuracy:.1f} %: {seconds / ours:.2f}x"
        print(f"  {told}   at least {least}   {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return held


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--oracles", help="python of the environment of benchmarks/oracles/requirements.txt")
    oracles = parser.parse_args().oracles
    torch.set_num_threads(1)
    held = [ensemble(), *(beside(oracles, name) for name in (NETS if oracles else ()))]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
