"""What the slots of one worker work with."""

from dataclasses import dataclass
from threading import Event

from service.settings import Settings
from service.storage.files import Store
from service.storage.sessions import Database
from workers.bell import Bell
from workers.children import Trainers
from workers.engines import Planner


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
    engine: Planner
