"""A trainer that learns nothing: what it does is said in its job's spec. It has the signature of the real one and no torch."""

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from service.errors import TemperError
from workers.messages import Assignment, Checkpointed, Done, Drained, Failed, Log, Metrics, Progress

orders: list[str] = []


def listen(connection: Connection) -> None:
    try:
        while True:
            orders.append(connection.recv())
    except (EOFError, OSError):
        os._exit(70)


def main(assignment: Assignment, connection: Connection) -> None:
    threading.Thread(target=listen, args=(connection,), daemon=True).start()
    act = assignment.spec.get("act", "learn")
    if assignment.kind == "publish":
        connection.send(Done(published(assignment)))
        return
    connection.send(Log("info", f"pid {os.getpid()} celery {'celery' in sys.modules} sqlalchemy {'sqlalchemy' in sys.modules}"))
    connection.send(Log("info", f"started {time.time()}"))
    if act == "fail":
        connection.send(Failed({"type": "/problems/x", "title": "X", "status": 500, "detail": "…"}, retryable=False))
        return
    if act == "read":
        try:
            assignment.store.check()
        except TemperError as error:
            problem = {"type": f"/problems/{error.slug}", "title": error.title, "status": error.status, "detail": error.detail}
            connection.send(Failed(problem, retryable=True))
            return
    if act == "die" and assignment.fence < 3:
        connection.send(Progress(0.1, 0, 0, None, "training", None))
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "sleep":
        time.sleep(600)
    if act == "nonsense":
        connection.send(Done({"nothing": object}))
        return
    learn(assignment, connection)


def learn(assignment: Assignment, connection: Connection) -> None:
    epochs, pause_s = int(assignment.spec.get("epochs", 3)), float(assignment.spec.get("pause_s", 0.0))
    begin = int((assignment.checkpoint or {}).get("epoch", 0))
    for epoch in range(begin + 1, epochs + 1):
        time.sleep(pause_s)
        best = {"metric": "loss", "value": 1 / epoch, "epoch": epoch}
        connection.send(Metrics(tuple((member, epoch, "train.loss", 1 / epoch) for member in assignment.members)))
        connection.send(Progress(epoch / epochs, epoch, 0, 0.0, "training", best))
        connection.send(Checkpointed({"epoch": epoch}))
        if orders and orders[-1] == "drain" and not assignment.spec.get("deaf"):
            connection.send(Drained())
            return
        if orders and orders[-1].startswith("stop:"):
            connection.send(Done({"epoch": epoch, "stopped": orders[-1]}))
            return
    connection.send(Done({"epoch": epochs, "stopped": None, "begin": begin}))


def published(assignment: Assignment) -> dict[str, object]:
    key = f"models/{assignment.model_id}/model.safetensors"
    assignment.store.write(key, b"weights")
    model = {
        "name": "digits", "spec": {}, "signature": {}, "layers": [], "parameters": 1, "metrics": {}, "members": 1,
        "files": {"model.safetensors": {"key": key, "size": 7, "sha256": "0"}}, "sha256": "0",
    }  # fmt: skip
    reason = next((result["stopped"] for result in assignment.results if result["stopped"]), None)
    return {"model": model, "result": {"parts": list(assignment.results)}, "best": None, "stop_reason": (reason or "stop:epochs")[5:]}
