"""Rotation, translation and noise of 28 x 28 images beside kornia: python -m benchmarks.augmentation [--rounds 20]

One thread each, in turns, batches of 100; kornia lives in an environment of its own, which the first run makes. It has the
transforms one by one, as the figure compares them, and turns and moves in one pass, which is printed beside. Run on an idle machine.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PROGRAMS, Runner, Turn, in_turn, interval, python_of

PLAN: dict[str, Any] = {"side": 28, "batch": 100, "train": 10_000, "epochs": 3, "degrees": 15.0, "pixels": 4, "std": 0.1}
AT_LEAST = 1.8
PEERS = {"separate": "kornia, three modules", "affine": "kornia, one affine pass and noise"}


def write_images(folder: Path) -> None:
    """Random images; what is in them does not matter for the time."""
    stream = np.random.default_rng(0)
    rows = PLAN["train"] + 10
    np.savez(folder / "rows.npz", x=stream.random((rows, PLAN["side"] ** 2), dtype=np.float32), y=stream.integers(0, 10, rows))
    (folder / "plan.json").write_text(json.dumps(PLAN))


def timed(rounds: int, home: Path) -> list[list[Turn]]:
    """Ours and the peers in turn."""
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name))
        runners = [Runner([sys.executable, "-m", "benchmarks.peer_programs.ours_augmented", name])]
        runners += [Runner([python_of("kornia", home), str(PROGRAMS / "augmented.py"), kind, name]) for kind in PEERS]
        return in_turn(runners, rounds)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "temper-peers", help="where they are made")
    given = parser.parse_args()
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}   {time.strftime('%Y-%m-%d %H:%M')}", flush=True)
    ours, *others = timed(given.rounds, given.environments)
    batches = PLAN["epochs"] * PLAN["train"] / PLAN["batch"]
    held = {}
    for kind, theirs in zip(PEERS, others, strict=True):
        pairs = list(zip(ours, theirs, strict=True))
        cpu, wall = interval([b.cpu / a.cpu for a, b in pairs]), interval([b.wall / a.wall for a, b in pairs])
        held[kind] = cpu[1] >= AT_LEAST
        spent = [1e6 * float(np.median([turn.cpu for turn in turns])) / batches for turns in (ours, theirs)]
        print(
            f"{PEERS[kind]:34s} {cpu[0]:5.2f}x [{cpu[1]:.2f}, {cpu[2]:.2f}] quicker by user CPU ({spent[0]:.0f} us a batch, theirs "
            f"{spent[1]:.0f} us; by wall {wall[0]:.2f}x)   at least {AT_LEAST}   {'holds' if held[kind] else 'FALLS SHORT'}",
            flush=True,
        )
    return 0 if held["separate"] else 1


if __name__ == "__main__":
    sys.exit(main())
