"""One look at the database for all who wait for a job: long polls are woken, and streams read new events from memory."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from service.storage import events
from service.storage.events import Event
from service.storage.sessions import Database

POLL_S = 0.08
"""How late a waiting caller may hear of a change."""
FAILED_S = 1.0
KEPT = 256
"""Events of a job that are kept for its streams; who is further behind reads the database."""
AT_ONCE = 500
log = logging.getLogger(__name__)


@dataclass
class Channel:
    """A job that somebody waits for: its version and events as last seen; -1 before the first look."""

    job: str
    project: str
    version: int = -1
    number: int = -1
    gone: bool = False
    waiting: int = 0
    _recent: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    _floor: int = -1
    _signal: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def signal(self) -> asyncio.Event:
        """Set at the next change; take it before looking at what it would tell of."""
        return self._signal

    def since(self, number: int) -> list[Event] | None:
        """Events above this number, in order; None where memory does not reach back so far."""
        if self.number < 0 or number < self._floor:
            return None
        return [event for event in self._recent if event.number > number]

    def update(self, version: int, fresh: Sequence[Event], number: int) -> None:
        """Take over what a look found, and wake all who wait."""
        if self.number < 0:
            self._floor = number
        for event in fresh:
            if len(self._recent) == KEPT:
                self._floor = self._recent[0].number
            self._recent.append(event)
        self.version, self.number = version, number
        self.wake()

    def end(self) -> None:
        """The job was deleted."""
        self.gone = True
        self.wake()

    def wake(self) -> None:
        """Wake all who wait."""
        self._signal.set()
        self._signal = asyncio.Event()


class Watch:
    """The channels of a process, and the task that looks for all of them while there are any."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._channels: dict[str, Channel] = {}
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    @contextmanager
    def channel(self, project: str, job: str) -> Iterator[Channel]:
        """The channel of a job that the caller has found in this project."""
        channel = self._channels.setdefault(job, Channel(job, project))
        channel.waiting += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield channel
        finally:
            channel.waiting -= 1
            if not channel.waiting:
                self._channels.pop(job, None)

    def close(self) -> None:
        """Wake everybody: the process is about to end."""
        self.closed = True
        for channel in self._channels.values():
            channel.wake()

    async def _run(self) -> None:
        while self._channels and not self.closed:
            seen = {job: (channel.project, channel.version, channel.number) for job, channel in self._channels.items()}
            try:
                found = await run_in_threadpool(self._look, seen)
            except Exception:
                log.warning("events could not be read", exc_info=True)
                await asyncio.sleep(FAILED_S)
                continue
            for job, news in found.items():
                if (channel := self._channels.get(job)) is not None:
                    channel.end() if news is None else channel.update(*news)
            await asyncio.sleep(POLL_S)

    def _look(self, seen: dict[str, tuple[str, int, int]]) -> dict[str, tuple[int, list[Event], int] | None]:
        """What changed: version, new events and newest number by job; None for a deleted one."""
        found: dict[str, tuple[int, list[Event], int] | None] = {}
        wanted = list(seen)
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            with self._database.read() as c:
                newest = events.newest(c, some)
                for job in some:
                    project, version, number = seen[job]
                    if job not in newest:
                        found[job] = None
                    elif newest[job] != (version, number):
                        fresh = events.after(c, project, job, number) if 0 <= number < newest[job][1] else []
                        found[job] = (newest[job][0], fresh, fresh[-1].number if fresh else newest[job][1])
        return found


async def set_within(signal: asyncio.Event, seconds: float) -> bool:
    """Whether the signal is set within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await signal.wait()
    except TimeoutError:
        return False
