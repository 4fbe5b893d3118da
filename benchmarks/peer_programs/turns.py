"""The talk between benchmarks.peers and a program under measurement, which may live in an environment without Temper.

A program says `ready` once it has imported and loaded everything; then each line on its standard input is a seed, and each
line that it answers is a JSON object with the wall seconds of the training and its accuracy on test.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Predict = Callable[[], np.ndarray]
"""Class probabilities or scores [N, C] of the test rows."""


class Data(NamedTuple):
    """Standardized float32 rows and integer labels, and how to train on them."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    plan: dict[str, Any]


def data(folder: str) -> Data:
    """What benchmarks.peers left in the folder: raw rows and the plan."""
    held, plan = np.load(f"{folder}/rows.npz"), json.loads(Path(folder, "plan.json").read_text())
    x, count = held["x"], plan["train"]
    mean, std = x[:count].mean(0), x[:count].std(0)
    x = ((x - mean) / np.where(std > 0, std, 1)).astype(np.float32)
    y = held["y"].astype(np.int64)
    return Data(x[:count], y[:count], x[count:], y[count:], plan)


def take_turns(train: Callable[[int], Predict], labels: np.ndarray) -> None:
    """Train with each seed that is asked for; what the libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print("ready", file=answers)
    for line in sys.stdin:
        began = time.perf_counter()
        predict = train(int(line))
        wall = time.perf_counter() - began
        accuracy = float((predict().argmax(1) == labels).mean())
        print(json.dumps({"wall": wall, "accuracy": accuracy}), file=answers)
