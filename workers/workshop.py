"""What the slots of one worker work with."""

from dataclasses import dataclass
from threading import Event
from typing import Any

from service.settings import Settings
from service.storage.files import Store
from service.storage.sessions import Database
from workers.bell import Bell
from workers.children import Trainers


@dataclass(frozen=True)
class Workshop:
    """What all slots of a worker share."""

    settings: Settings
    database: Database
    trainers: Trainers
    store: Store
    bell: Bell
    draining: Event
    owner: str
    engine: dict[str, Any]
