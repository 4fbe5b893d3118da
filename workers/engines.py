"""Which engine trains a shard: members one after the other (plain), or side by side as batched products (stacked).

The choice is written into the shard at its first claim and holds for all its attempts. It depends on the spec, the shard and
the calibration of the machine, if there is one, and on nothing that changes from post to post.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from service.stacking import STACK_MEMBERS, STACK_PARAMETERS, side_by_side

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Where stacking pays; the defaults are what holds on most machines."""

    stack_parameters: int = STACK_PARAMETERS
    """Most parameters of a member: with its moments it has to stay in a core's cache."""
    stack_members: int = STACK_MEMBERS
    """Most members side by side."""

    def dump(self) -> dict[str, int]:
        """As it is stored."""
        return asdict(self)


def calibration(data: Path) -> Calibration:
    """What `temper calibrate` left in the data folder; the defaults where it has not been run. Raises ValueError for nonsense."""
    try:
        found = json.loads((data / FILE).read_text())
    except FileNotFoundError:
        return Calibration()
    names = {field.name for field in fields(Calibration)}
    values = {name: value for name, value in found.get("engines", {}).items() if name in names}
    if not all(isinstance(value, int) and value >= 0 for value in values.values()):
        raise ValueError(f"{FILE} has bounds that are no counts")
    return Calibration(**values)


@dataclass(frozen=True)
class Planner:
    """Chooses the engine of a shard; `threads` is what each trainer computes with."""

    threads: int = 1
    machine: Calibration = Calibration()

    def __call__(self, extra: Mapping[str, Any], members: int) -> dict[str, int]:
        """The engine of a shard of so many members, from what its job was found to be when it was accepted."""
        bounds = {"most_parameters": self.machine.stack_parameters, "most_members": self.machine.stack_members}
        return {"threads": self.threads, "stack": side_by_side(int(extra.get("parameters", 0)), members, **bounds)}
