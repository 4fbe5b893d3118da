"""More predictions than a process takes: refused at once, with a time to come back, and nothing of them read."""

import socket
import time
from pathlib import Path

import httpx2

from tests.patience import until
from tests.routes.conftest import served


def test_one_prediction_too_many(tmp_path: Path) -> None:
    with served(tmp_path, TEMPER_MAX_PREDICTIONS="2") as api:
        head = "POST /api/v1/models/none/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
        slow = [socket.create_connection(("127.0.0.1", api.port)) for _ in range(2)]
        for connection in slow:
            connection.sendall(head.encode())
        time.sleep(0.3)
        answer = httpx2.post(f"{api.url}/api/v1/models/none/predict", json={"inputs": [[0]]})
        assert (answer.status_code, answer.json()["type"]) == (429, "/problems/overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx2.get(f"{api.url}/api/v1/jobs").status_code == 200  # what is not a prediction goes on
        for connection in slow:
            connection.close()
        until(lambda: httpx2.post(f"{api.url}/api/v1/models/none/predict", json={"inputs": [[0]]}).status_code == 404)
