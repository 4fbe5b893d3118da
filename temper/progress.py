"""A job's progress for people: a bar in a terminal, a line every 10 s elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

LINE_S = 10.0


class Progress:
    """Shows a job on standard error whenever it is called with the job's data."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("  {task.description}"), BarColumn(20), TextColumn("{task.fields[left]}"))
        self._bar = Bar(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("", total=1.0, left="")
        self._next_line = time.monotonic() + LINE_S

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, job: Mapping[str, Any]) -> None:
        """Draws the job's state."""
        fraction, left = job["progress"].get("fraction") or 0.0, _left(job["progress"])
        if self._console.is_terminal:
            self._bar.update(self._task, completed=fraction, description=describe(job), left=left)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_S
            print(f"{job['id']}  {describe(job)}  {fraction:.0%}  {left}".rstrip(), file=sys.stderr, flush=True)


def describe(job: Mapping[str, Any]) -> str:
    """One line on where a job is: state, members, epochs, the best value so far."""
    progress, best = job["progress"], job["best"]
    parts = [job["state"] if job["done"] or not job["phase"] else job["phase"]]
    if job["state"] == "queued" and job.get("queue_position"):
        parts.append(f"place {job['queue_position']}")
    if (progress.get("members") or 1) > 1:
        parts.append(f"members {progress.get('members_done') or 0}/{progress['members']}")
    if progress.get("epoch") is not None and progress.get("epochs"):
        parts.append(f"epoch {progress['epoch']}/{progress['epochs']}")
    if best:
        parts.append(f"best {best['metric']} {best['value']:.4g} at {best['epoch']}")
    return "  ".join(parts)


def _left(progress: Mapping[str, Any]) -> str:
    eta = progress.get("eta_s")
    return "" if eta is None else f"{eta:.0f} s left"
