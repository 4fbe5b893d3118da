"""Rows 72, 90 and 106 to 108: what the service lacks, and what happens to a dataset while a job is checked."""

import sqlite3
import threading
import time

from tests.matrix.table import DATASETS, DIGITS, JOBS, MLP, MODELS, Answer, Bench, Row, asked, spec, upload

PIXELS = [0.0] * 64


def deleted_meanwhile(bench: Bench) -> Answer:
    """A job whose dataset goes between its check and its row: another writer holds the database until then."""
    made = upload(b"a,y\n" + b"1,2\n3,4\n" * 20, name="fleeting")(bench)
    answers: list[Answer] = []
    body = {"dataset": made.json["id"], "architecture": MLP}
    posting = threading.Thread(target=lambda: answers.append(bench.ask("POST", JOBS, json=body)))
    with sqlite3.connect(bench.data / "temper.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        posting.start()
        time.sleep(2)
        other.execute("DELETE FROM datasets WHERE id = ?", (made.json["id"],))
        other.execute("COMMIT")
    other.close()
    posting.join()
    return answers[0]


def locked(bench: Bench) -> Answer:
    """A job while another writer holds the database for longer than is waited."""
    with sqlite3.connect(bench.data / "temper.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = bench.ask("POST", JOBS, json={**DIGITS, "name": "late"})
        other.execute("ROLLBACK")
    other.close()
    return answer


def flipped(path: str) -> object:
    """A file of the model `broken`, one byte of which has changed."""

    def send(bench: Bench) -> Answer:
        file = bench.data / "files" / "models" / bench.refs["broken"] / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        try:
            return bench.ask("GET" if path.startswith("files") else "POST", f"{MODELS}/{{broken}}/{path}", json={"inputs": [PIXELS]})
        finally:
            content[-1] ^= 1
            file.write_bytes(content)

    return send


ROWS = [
    Row(72, "more memory than a slot has", spec(72, {"architecture": {"type": "mlp", "hidden": [6000, 6000]}}, "cost-limit").send, 422,
        "cost-limit", "/architecture", on="spare", also=lambda answer: "bytes of memory; the limit is" in answer.json["detail"]),
    Row(90, "a dataset deleted meanwhile", deleted_meanwhile, 409, "dataset-deleted", on="spare"),
    Row(106, "predict", flipped("predict"), 503, "artifact-corrupt"),
    Row(106, "download", flipped("files/model.safetensors"), 503, "artifact-corrupt"),
    Row(107, "a database held by another", locked, 503, "dependency-unavailable", on="spare"),
    *(Row(107, path, asked("GET", path), 503, "dependency-unavailable", on="cut_off")
      for path in (JOBS, DATASETS, MODELS, f"{JOBS}/job_1")),
    Row(107, "post", asked("POST", JOBS, json=DIGITS), 503, "dependency-unavailable", on="cut_off"),
    Row(108, "a file of 9 MB", upload(b"a,y\n" + b"1,2\n" * 2_400_000), 507, "storage-full", on="spare"),
]  # fmt: skip
