"""One look at the database for all who wait for a job: long polls are woken, and streams read new events from memory."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakSet

from starlette.concurrency import run_in_threadpool

from service.routes.answers import rfc3339
from service.storage import events
from service.storage.events import Line
from service.storage.sessions import Database

POLL_S = 0.08
"""How late a waiting caller may hear of a change."""
FAILED_S = 1.0
KEPT = 256
"""Events of a job that are kept for its streams; who is further behind reads the database."""
BLOCK_BYTES = 64 * 2**10
"""About what is sent to a stream at a time: a thousand of them take turns, and no other request waits for a long one."""
GROUP = 16
"""So many who wait are woken at a time."""
SHARED_S = 1.0
"""So long a block of the past is handed to others who come to the same place."""
AT_ONCE = 500
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Block:
    """Events on the wire: their bytes, the number of the last, and whether it is the job's `end`."""

    body: bytes
    number: int
    ended: bool = False


@dataclass
class Channel:
    """A job that somebody waits for: its version and events as last seen; -1 before the first look."""

    job: str
    project: str
    version: int = -1
    number: int = -1
    gone: bool = False
    waiting: int = 0
    past: dict[int, asyncio.Future[Block]] = field(default_factory=dict)
    """Blocks of the past that somebody reads, or has just read, by the number before them."""
    _recent: deque[Block] = field(default_factory=lambda: deque(maxlen=KEPT))
    _joined: dict[int, Block] = field(default_factory=dict)
    _floor: int = -1
    _signals: WeakSet[asyncio.Event] = field(default_factory=WeakSet)
    _signal: asyncio.Event | None = None
    _handed: int = 0

    @property
    def signal(self) -> asyncio.Event:
        """Set at the next change; take it before looking at what it would tell of."""
        if self._signal is None or self._handed % GROUP == 0:
            self._signal = asyncio.Event()
            self._signals.add(self._signal)  # as long as somebody waits for it
        self._handed += 1
        return self._signal

    def since(self, number: int) -> Block | None:
        """The next events above this number, maybe none; None where memory does not reach back so far."""
        if self.number < 0 or number < self._floor:
            return None
        if number not in self._joined:  # most streams are at the same place
            self._joined[number] = joined([event for event in self._recent if event.number > number], number)
        return self._joined[number]

    def update(self, version: int, fresh: Sequence[Block], number: int) -> None:
        """Take over what a look found, and wake all who wait."""
        if self.number < 0:
            self._floor = number
        for event in fresh:
            if len(self._recent) == KEPT:
                self._floor = self._recent[0].number
            self._recent.append(event)
        self._joined.clear()
        self.version, self.number = version, number
        self.wake()

    def end(self) -> None:
        """The job was deleted."""
        self.gone = True
        self.wake()

    def wake(self) -> None:
        """Wake all who wait, one group after the other, so that other requests come in between."""
        signals, self._signals, self._signal = list(self._signals), WeakSet(), None
        _set_in_turn(signals)


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

    async def past(self, channel: Channel, number: int) -> Block:
        """The next events above this number from the database, read and written once for all who ask at about the same time."""
        shared = channel.past.get(number)
        if shared is None:
            shared = asyncio.ensure_future(run_in_threadpool(self._block, channel.project, channel.job, number))
            channel.past[number] = shared
            shared.add_done_callback(lambda done: _forget(channel, number, done))
        return await asyncio.shield(shared)

    def _block(self, project: str, job: str, number: int) -> Block:
        with self._database.read() as c:
            return joined(list(map(encoded, events.lines(c, project, job, number))), number)

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

    def _look(self, seen: dict[str, tuple[str, int, int]]) -> dict[str, tuple[int, list[Block], int] | None]:
        """What changed: version, new events and newest number by job; None for a deleted one."""
        found: dict[str, tuple[int, list[Block], int] | None] = {}
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
                        lines = events.lines(c, project, job, number) if 0 <= number < newest[job][1] else []
                        fresh = list(map(encoded, lines))
                        found[job] = (newest[job][0], fresh, fresh[-1].number if fresh else newest[job][1])
        return found


def encoded(line: Line) -> Block:
    """An event on the wire: id, name and one line of JSON, to which the time is added."""
    begun = line.data.rstrip().removesuffix("}")
    comma = "" if begun.rstrip().endswith("{") else ","
    body = f'id: {line.number}\nevent: {line.kind}\ndata: {begun}{comma}"at":"{rfc3339(line.at)}"}}\n\n'
    return Block(body.encode(), line.number, line.kind == "end")


def joined(parts: Sequence[Block], number: int) -> Block:
    """The first of these events as one block, about as many as may be sent at once; empty at `number` where there are none."""
    taken, size = 0, 0
    while taken < len(parts) and (not taken or size + len(parts[taken].body) <= BLOCK_BYTES):
        size += len(parts[taken].body)
        taken += 1
    body = b"".join(part.body for part in parts[:taken])
    return Block(body, parts[taken - 1].number, parts[taken - 1].ended) if taken else Block(body, number)


def _forget(channel: Channel, number: int, done: asyncio.Future[Block]) -> None:
    """What was found stays for those who come soon; nothing and a fault do not."""
    if done.cancelled() or done.exception() is not None or not done.result().body:
        channel.past.pop(number, None)
    else:
        asyncio.get_running_loop().call_later(SHARED_S, channel.past.pop, number, None)


def _set_in_turn(signals: list[asyncio.Event]) -> None:
    if signals:
        signals.pop().set()
        asyncio.get_running_loop().call_soon(_set_in_turn, signals)


async def set_within(signal: asyncio.Event, seconds: float) -> bool:
    """Whether the signal is set within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await signal.wait()
    except TimeoutError:
        return False
