"""What is made of measurements of this machine, and that they can be taken."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workers.engines import Calibration, Planner, calibration
from workers.training.calibrate import MEMBERS, Timing, bounds, measure


def timings(gains: list[float], sizes: dict[int, float]) -> list[Timing]:
    """Nets of width 10, 20, … that a stack makes so much faster, and the time per member of stacks of the smallest net."""
    found = [Timing(10, 100, size, seconds) for size, seconds in sizes.items() if size != MEMBERS]
    for i, gain in enumerate(gains):
        width = 10 * (i + 1)
        found += [Timing(width, 10 * width, 1, 1.0), Timing(width, 10 * width, MEMBERS, gain)]
    return found


@pytest.mark.parametrize(
    ("gains", "parameters"),
    [([0.3, 0.5, 0.9, 1.2], 300), ([0.3, 1.0, 0.5], 100), ([1.1, 0.5], 0), ([0.2, 0.94, 0.96], 200), ([0.5] * 4, 400)],
)
def test_stacks_are_for_nets_up_to_the_first_that_gains_nothing(gains: list[float], parameters: int) -> None:
    assert bounds(timings(gains, {2: 0.9})).stack_parameters == parameters


def test_the_size_of_a_stack_is_the_fastest_per_member() -> None:
    assert bounds(timings([0.5], {2: 0.6, 4: 0.45, 16: 0.4, 32: 0.47})) == Calibration(100, 16)
    assert bounds(timings([0.3], {2: 0.6, 16: 0.4})).stack_members == MEMBERS


def test_a_machine_where_nothing_gains_never_stacks() -> None:
    assert Planner(1, bounds(timings([1.5], {2: 1.2})))({"parameters": 10}, 10) == {"threads": 1, "stack": 1}


def test_a_stack_of_small_nets_is_faster_than_its_members_one_by_one() -> None:
    alone, side_by_side = measure(16, 1, steps=20), measure(16, 8, steps=20)
    assert alone.parameters == side_by_side.parameters == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert side_by_side.seconds < 0.7 * alone.seconds


def test_the_command_leaves_what_workers_read(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "temper", "calibrate", "--data", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = calibration(tmp_path)
    assert f"{found.stack_members} members" in said.stdout
    kept = json.loads((tmp_path / "calibration.json").read_text())
    assert kept["engines"] == found.dump()
    assert {timing["members"] for timing in kept["timings"]} >= {1, MEMBERS}
