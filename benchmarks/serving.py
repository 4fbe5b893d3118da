"""Ensembles and Monte Carlo dropout at prediction, over one network: CPU time of `ask` on one thread.

Three ratios: the question to one member's `ask` under weight scaling (which the bounds are on), the question to that member's
bare forward pass, and the passes of the question, without what combines them, to that pass. All alternate; a figure is a
ratio of medians. Masks are fresh for every row and sample. Run: python -m benchmarks.serving [--seconds S]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from service.data.encoding import Encoding, NumericInput
from service.inference.asking import ask, passes, quiet
from service.inference.model import Model, serving
from service.nets.network import Network, NetworkSpec, Scale
from service.spec import TrainSpec
from service.tricks.modes import Asking
from service.tricks.normalization import Normalize

CLASSES, MEMBERS, SAMPLES = 10, 10, 50
SMALL, BIG = (64, (128, 128)), (784, (1024, 1024))
ENSEMBLE, MONTE_CARLO = {"mode": "ensemble"}, {"mode": "monte_carlo", "samples": SAMPLES}


class Case(NamedTuple):
    """What is asked of which net, on so many rows, and the bounds on the ratio to one `ask`."""

    name: str
    net: tuple[int, tuple[int, ...]]
    dropout: dict[str, float]
    fields: dict[str, Any]
    rows: int
    required: float
    aim: float


HIDDEN, BOTH = {"hidden": 0.5}, {"input": 0.2, "hidden": 0.5}
CASES = (
    Case("k=10 small, batch 1", SMALL, HIDDEN, ENSEMBLE, 1, 1.5, 1.1),
    Case("k=10 small, batch 64", SMALL, HIDDEN, ENSEMBLE, 64, 9.0, 7.0),
    Case("S=50 small, batch 1", SMALL, HIDDEN, MONTE_CARLO, 1, 6.0, 3.5),
    Case("S=50 small, inputs dropped too, batch 1", SMALL, BOTH, MONTE_CARLO, 1, 6.0, 3.5),
    Case("S=50 big, batch 1", BIG, HIDDEN, MONTE_CARLO, 1, 15.0, 10.0),
    Case("S=50 big, inputs dropped too, batch 1", BIG, BOTH, MONTE_CARLO, 1, 15.0, 10.0),
)


def model(case: Case) -> Model:
    """Random members."""
    features, hidden = case.net
    architecture = {"type": "mlp", "hidden": list(hidden), "dropout": case.dropout}
    spec = TrainSpec.model_validate({"dataset": "made", "targets": [{"task": "classification", "name": "y"}], "architecture": architecture})
    inputs = tuple(NumericInput(name=f"n{i}", fill=0.0, indicator=False, low=-4.0, high=4.0) for i in range(features))
    described = NetworkSpec(spec.architecture, (features,), spec.targets or (), (CLASSES,))
    normalize, scale = Normalize(torch.zeros(features), torch.ones(features)), Scale(torch.zeros(1), torch.ones(1))
    members = MEMBERS if case.fields is ENSEMBLE else 1
    networks = tuple(serving(Network(described, normalize, [scale], torch.Generator().manual_seed(i))) for i in range(members))
    return Model(spec, Encoding(inputs=inputs), (tuple(map(str, range(CLASSES))),), networks, 0)


def medians(*works: Callable[[], object], seconds: float) -> list[float]:
    """Median CPU seconds of each, in alternation; the first rounds warm up."""
    times: list[list[float]] = [[] for _ in works]
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < 10 or time.perf_counter() < until:
        for work, own in zip(works, times, strict=True):
            began = time.process_time()
            work()
            own.append(time.process_time() - began)
        rounds += 1
    return [statistics.median(own[3:]) for own in times]


def measure(case: Case, seconds: float) -> list[float]:
    """Seconds of the question, of its passes, of one `ask`, and of one bare forward pass."""
    made = model(case)
    x = torch.randn(case.rows, case.net[0], generator=torch.Generator().manual_seed(0))
    one, many = Asking(mode="single").axes(made), Asking.model_validate(case.fields).axes(made)

    def bare() -> Tensor:
        with torch.inference_mode():
            return made.networks[0](x)["y"]

    def networks() -> list[Any]:
        with torch.inference_mode():
            return list(passes(made, x, many, fresh=True, beat=quiet))

    return medians(lambda: ask(made, x, many), networks, lambda: ask(made, x, one), bare, seconds=seconds)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="per figure")
    given = parser.parse_args()
    torch.set_num_threads(1)
    held = []
    for case in CASES:
        asked, networks, single, forward = measure(case, given.seconds)
        held.append(asked / single <= case.required)
        told = f"{asked / single:.2f} over one ask ({1e6 * single:.0f} us), {asked / forward:.2f} over one forward ({1e6 * forward:.0f} us)"
        alone = f"passes alone {networks / forward:.2f}"
        print(
            f"{case.name:40s} {told}, {alone}   at most {case.required}, aim {case.aim}   {'holds' if held[-1] else 'FALLS SHORT'}",
            flush=True,
        )
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
