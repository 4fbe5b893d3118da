"""The doorbell: a message that says only that there is work. The rows are the truth, so it may be lost, doubled or late."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

RING = "workers.tasks.ring"
QUEUE = "temper"
EXPIRES_S = 60
TIMEOUT_S = 0.5
FILES = "filesystem"
log = logging.getLogger(__name__)


def configuration(broker_url: str) -> dict[str, Any]:
    """Celery's settings for that broker; `filesystem:///folder` names the folder of the messages, empty keeps them in the process."""
    settings: dict[str, Any] = {
        "broker_url": broker_url or "memory://",
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
    }
    if broker_url.startswith(FILES):
        folder = Path(urlsplit(broker_url).path)
        messages, control = folder / "messages", folder / "control"
        for place in (messages, control):
            place.mkdir(parents=True, exist_ok=True)
        options = {"data_folder_in": str(messages), "data_folder_out": str(messages), "control_folder": str(control)}
        settings |= {"broker_url": f"{FILES}://", "broker_transport_options": {**options, "polling_interval": 0.1}}
    return settings


class Doorbell:
    """Rings the workers, best effort: whoever does not hear it looks for work by himself."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("temper", set_as_current=False) if broker_url else None
        if self._app is not None:
            self._app.conf.update(configuration(broker_url))
            if not broker_url.startswith(FILES):
                # A broker that hangs must not hold the caller.
                limits = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "max_retries": 0}
                self._app.conf.update(broker_transport_options=limits, broker_connection_timeout=TIMEOUT_S)
            self._prepare()

    def _prepare(self) -> None:
        """Import now what Celery and kombu import at the first message, so that no caller waits for it; connects to nothing."""
        if self._app is None:
            return
        with self._app.connection_for_write() as connection:
            connection.get_transport_cls()
        self._app.amqp.router.route({}, RING)
        self._app.finalize(auto=True)

    def ring(self, times: int = 1) -> None:
        """Say `times` times that there is work, each to another idle worker; call it after the commit. Never raises."""
        if self._app is None:
            return
        try:
            for _ in range(times):
                self._app.send_task(RING, retry=False, ignore_result=True, expires=EXPIRES_S, queue=QUEUE)
        except Exception as error:  # whatever the broker's client raises, the job is safe and will be found
            log.warning("the doorbell is out of order: %s", error)

    def close(self) -> None:
        """Give the broker's connections back."""
        if self._app is not None:
            self._app.close()
