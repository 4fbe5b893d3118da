"""What the supervisor and a trainer say to each other over their pipe; orders to the trainer are strings.

Orders: `stop:<reason>` (finish now with what there is) and `drain` (write a checkpoint and go). A closed pipe means: die at once.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

from service.storage.files import Store

DRAIN = "drain"
STOP = "stop:"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at one shard: all that a trainer is told at its start."""

    job_id: str
    shard: int
    kind: str
    fence: int
    members: tuple[int, ...]
    spec: dict[str, Any]
    dataset_id: str
    """Empty for a job without one."""
    scratch_key: str
    """Where this attempt's files belong: `jobs/<id>/<fence>-<shard>` in the store."""
    model_id: str
    """A fresh id for the model of a publish shard."""
    store: Store
    checkpoint: dict[str, Any] | None = None
    results: tuple[dict[str, Any], ...] = ()
    """For a publish shard: what the others ended with, by shard number."""
    threads: int = 1
    stack: int = 1
    """How many members train side by side; 1 is one after the other."""
    memory_bytes: int = 0
    """What the trainer may take beside what it has at its start; 0 means any amount."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the shard is: a fraction, the mean epoch of its open members, members done, seconds left, phase, best so far."""

    fraction: float
    epoch: float
    members_done: int
    eta_s: float | None
    phase: str
    best: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Values of series: (member, epoch, name, value)."""

    rows: tuple[tuple[int, int, str, float], ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the job's log."""

    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint whose file is durable; the record is handed to the next attempt."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The shard's result; of a publish shard {model, result, best, stop_reason}."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt broke: a problem {type, title, status, detail}, and whether another attempt may fare better."""

    error: dict[str, Any]
    retryable: bool


@dataclass(frozen=True, slots=True)
class Drained:
    """The trainer has written what it had and goes, as it was ordered."""


Message: TypeAlias = Progress | Metrics | Log | Checkpointed | Done | Failed | Drained
Outcome: TypeAlias = Done | Failed | Drained
