"""Where stacking pays on this machine: measured once by hand, read by its workers. `temper calibrate` runs it."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from service.nets.mlp import MLP
from service.nets.network import Network, NetworkSpec, Scale, stack
from service.storage.files import Folder
from service.tricks.dropout import Sampled
from service.tricks.multitask import Classification
from service.tricks.normalization import Normalize
from service.tricks.optimization import Adam
from workers.engines import FILE, Calibration

WIDTHS = (64, 128, 192, 256, 384, 512)
SIZES = (2, 4, 8, 16, 32)
MEMBERS, BATCH, INPUTS, CLASSES = 8, 64, 64, 10
GAIN = 0.95
"""Stacking has to save so much to be chosen: a draw is not worth another layout."""


class Timing(NamedTuple):
    """CPU seconds of one step of one member of a net with hidden layers of that width, side by side with so many."""

    width: int
    parameters: int
    members: int
    seconds: float


def measure(width: int, members: int, *, steps: int = 20, rounds: int = 3) -> Timing:
    """Steps of fused Adam with dropout on random rows; the median of some rounds after a warm-up."""
    spec = NetworkSpec(
        MLP.model_validate({"hidden": [width, width], "dropout": 0.5}), (INPUTS,), (Classification(name="label"),), (CLASSES,)
    )
    shift, scales = Normalize(torch.zeros(INPUTS), torch.ones(INPUTS)), [Scale(torch.zeros(1), torch.ones(1))]
    streams = [torch.Generator().manual_seed(seed) for seed in range(members)]
    each = [Network(spec, shift, scales, stream) for stream in streams]
    network = stack(each) if members > 1 else each[0]
    x = torch.randn(*([members] if members > 1 else []), BATCH, INPUTS, generator=streams[0])
    labels = torch.randint(CLASSES, (members * BATCH,), generator=streams[0])
    optimizer, gate = Adam().build(list(network.parameters()), []), Sampled(streams, BATCH, stacked=members > 1)

    def work(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            (F.cross_entropy(network(x, gate)["label"].flatten(0, -2), labels) * members).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return (time.process_time() - began) / count

    work(steps)
    parameters = sum(parameter.numel() for parameter in each[0].parameters())
    return Timing(width, parameters, members, statistics.median(work(steps) for _ in range(rounds)) / members)


def bounds(timings: Iterable[Timing]) -> Calibration:
    """The largest net that gains by a stack, up to the first that does not, and the size of a stack that is fastest per member."""
    found = list(timings)
    alone = {timing.width: timing.seconds for timing in found if timing.members == 1}
    parameters = 0
    for timing in sorted(found):
        if timing.members == MEMBERS and timing.width in alone:
            if timing.seconds > GAIN * alone[timing.width]:
                break
            parameters = timing.parameters
    least = min(timing.width for timing in found)
    sizes = [timing for timing in found if timing.width == least and timing.members > 1]
    return Calibration(parameters, min(sizes, key=lambda timing: timing.seconds).members)


def main() -> None:
    """Measure, print, and keep what was found in the data folder."""
    parser = argparse.ArgumentParser(prog="python -m workers.training.calibrate")
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = dict.fromkeys([*((width, count) for width in WIDTHS for count in (1, MEMBERS)), *((WIDTHS[0], size) for size in SIZES)])
    timings = []
    for width, members in pairs:
        timings.append(measure(width, members))
        told = timings[-1]
        _say(f"{INPUTS}-{width}-{width}-{CLASSES}, {members:2d} side by side: {told.seconds * 1e6:7.0f} us a step and member")
    found = bounds(timings)
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    kept: dict[str, Any] = {"engines": found.dump(), "machine": machine, "timings": [timing._asdict() for timing in timings]}
    given.data.mkdir(parents=True, exist_ok=True)
    Folder(given.data).write(FILE, json.dumps(kept, indent=1).encode())
    _say(f"stacks of at most {found.stack_members} members with at most {found.stack_parameters} parameters each: {given.data / FILE}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
