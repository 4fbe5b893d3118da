"""The one task: a ring at the door."""

from collections.abc import Callable
from typing import Any

from service.queue import RING


def register(app: Any, ring: Callable[[], None]) -> None:
    """Give the Celery app the task that rings; it returns at once and nothing waits for its result."""

    def answer() -> None:
        ring()

    app.task(name=RING, ignore_result=True, acks_late=False)(answer)
