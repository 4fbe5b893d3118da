"""Why a trainer died without a word: its signal, and whether the kernel was out of memory."""

import signal
from pathlib import Path
from typing import Any

from workers.messages import Failed

EVENTS = Path("/sys/fs/cgroup/memory.events")


def oom_kills() -> int:
    """How many processes of our control group the kernel has killed for memory; 0 where it does not say."""
    try:
        lines = EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def problem(slug: str, title: str, detail: str, status: int = 500) -> dict[str, Any]:
    """A problem (RFC 9457) of a job."""
    return {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail}


def of_death(exitcode: int | None, kills_before: int) -> Failed:
    """What to say of a trainer that ended with that status and no message; worth another attempt unless memory ran out."""
    if exitcode == -signal.SIGKILL and oom_kills() > kills_before:
        detail = "The kernel killed the trainer because memory ran out."
        return Failed(problem("out-of-memory", "Out of memory", detail, 507), retryable=False)
    if exitcode is not None and exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = f"signal {-exitcode}"
        return Failed(problem("trainer-killed", f"Trainer killed by {name}", f"The trainer was ended by {name}."), retryable=True)
    return Failed(problem("trainer-lost", "Trainer lost", f"The trainer ended with status {exitcode} and no result."), retryable=True)


def of_stall(stall_s: float) -> Failed:
    """What to say of a trainer that was silent for too long."""
    return Failed(problem("stalled", "Trainer stalled", f"The trainer made no progress for {stall_s:g} s and was killed."), retryable=True)
