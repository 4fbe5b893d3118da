"""Kills and pauses processes of a running stack at random, from a seed that is printed."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from math import inf
from typing import Self

import httpx2

from tests.patience import until
from tests.system.desk import alive, playing
from tests.system.separate import Separate, Stack, roots

# How often each role is struck, and how many seconds it is spared after it was first seen. A parent that starts its children
# again takes one that dies before it became ready five times in a row as broken, and is right to.
ODDS = {"trainer": 5.0, "worker": 2.0, "api": 1.0, "broker": 1.0}
SPARED_S = {"trainer": 0.0, "worker": 6.0, "api": 5.0, "broker": 2.0}
KILLS = 0.75  # of the strikes; the others are pauses
EVERY_S = 0.25
SERVER_PAUSE_S = 1.0


class Nemesis(threading.Thread):
    """Strikes until it is told to end; `struck` counts (role, what), `over` what became of it is awake again."""

    def __init__(self, stack: Stack, seed: int, *, lease_s: float, for_s: float = inf, most: float = inf) -> None:
        super().__init__(name="nemesis", daemon=True)
        self.struck: Counter[tuple[str, str]] = Counter()
        self._stack, self._lease_s, self._for_s, self._most = stack, lease_s, for_s, most
        self._random = random.Random(seed)
        self._seen: dict[int, float] = {}
        self._sleeping: dict[int, float] = {}
        self._end = threading.Event()
        self.error: BaseException | None = None

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(count for (_, what), count in self.struck.items() if what == "kill")

    def run(self) -> None:
        try:
            began = time.monotonic()
            while not self._end.wait(EVERY_S * self._random.uniform(0.5, 1.5)):
                self._wake(time.monotonic())
                self.tend()
                if self.kills < self._most and time.monotonic() - began < self._for_s:
                    self._strike()
        except BaseException as error:
            self.error = error
        finally:
            self._wake(float("inf"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Strike no more, wake who sleeps, have the stack complete again; raises what went wrong on the way."""
        self._end.set()
        self.join()
        if self.error is not None:
            raise self.error
        until(self._whole)

    def _whole(self) -> bool:
        self.tend()
        return all(playing(role, roots(self._stack)) for role in ("api", "worker", "broker"))

    def tend(self) -> None:
        """Start again what is dead and has no parent that would."""
        if isinstance(self._stack, Separate):
            self._stack.tend()
            if self._stack.redis.process is not None and self._stack.redis.process.poll() is not None:
                self._stack.redis.start()

    def _strike(self) -> None:
        role = self._random.choices(list(ODDS), list(ODDS.values()))[0]
        now = time.monotonic()
        found = [pid for pid in playing(role, roots(self._stack)) if alive(pid) and pid not in self._sleeping]
        ripe = [pid for pid in found if now - self._seen.setdefault(pid, now) >= SPARED_S[role]]
        # A busy machine takes long to start an API: one that is killed before it answers was of no use to the jobs.
        if not ripe or (role == "api" and not self._answers()):
            return
        pid = self._random.choice(ripe)
        kill = self._random.random() < KILLS
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if kill else signal.SIGSTOP)
            self.struck[role, "kill" if kill else "pause"] += 1
            if not kill:
                self._sleeping[pid] = now + (self._lease_s + 0.7 if role in ("trainer", "worker") else SERVER_PAUSE_S)

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self._stack.url}/readyz", timeout=1).status_code == 200
        except httpx2.HTTPError:
            return False

    def _wake(self, now: float) -> None:
        for pid in [pid for pid, due in self._sleeping.items() if due <= now]:
            del self._sleeping[pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
