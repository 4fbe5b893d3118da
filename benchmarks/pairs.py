"""All pairs of tricks over HTTP, each job once undisturbed and once with its trainers killed: the same SHA-256, or a refusal as declared.

The jobs are those of a covering array (`tests/training/covering.py`) over the kinds of all unions (`tests/training/factors.py`):
every value of every factor meets every value of every other. `--jobs N` takes the first N, `--skip N` leaves out the first N.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import kill
from signal import SIGKILL
from typing import Any

import httpx2
import numpy as np

from benchmarks.service import Answer, service
from tests.system.desk import trainers
from tests.training.covering import Row, covering_array, pairs_in, pairs_of
from tests.training.factors import NAMES, job, refused

ROWS, EPOCHS = 400, 40
LOOKED_AT, SAID_EVERY_S = 4, 60.0
MODES = ("single", "weight_scaled", "monte_carlo", "ensemble")


def upload(http: httpx2.Client) -> None:
    """The datasets that the factors name, larger than those of the tests so that a kill meets a trainer at work."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(ROWS, 2)).round(3)
    lines = ["a,b,c,kind,size"]
    for i, (a, b) in enumerate(x):
        kind = "" if i % 10 == 3 else "up" if a > 0 else "down"
        lines.append(f"{a},{b},{('red', 'blue', 'green')[i % 3]},{kind},{'' if i % 12 == 5 else round(3 * b + 7, 3)}")
    _post(http, "table.csv", "\n".join(lines).encode(), '{"targets": ["kind", "size"]}')
    pictures = stream.random(size=(ROWS, 6, 6)).astype(np.float32)
    shares = stream.random(size=(ROWS, 3)).astype(np.float32)
    arrays = {"images": (pictures[:, :3].mean((1, 2)) > 0.5).astype(np.int64), "shares": shares / shares.sum(1, keepdims=True)}
    for name, y in arrays.items():
        content = io.BytesIO()
        np.savez(content, x=pictures, y=y)
        _post(http, f"{name}.npz", content.getvalue())


def _post(http: httpx2.Client, file: str, content: bytes, schema: str | None = None) -> None:
    data = {"name": file.partition(".")[0], **({"schema": schema} if schema else {})}
    answer = http.post("/api/v1/datasets", files={"file": (file, content)}, data=data)
    if answer.status_code != 201:
        raise SystemExit(answer.text)


def submitted(http: httpx2.Client, row: Row, name: str) -> str:
    """The id of a row's job, just posted."""
    fields = {**job(row), "name": name, "epochs": EPOCHS, "limits": {"stall_s": 60}}
    answer = http.post("/api/v1/jobs", json=fields)
    if answer.status_code != 202:
        raise SystemExit(f"{row} was refused: {answer.text}")
    return str(answer.json()["id"])


def done(http: httpx2.Client, jobs: Sequence[str], seen: Callable[[str, Answer], None] = lambda *_: None) -> list[Answer]:
    """The jobs, once all are done; `seen` is told of each that is not, again and again."""
    found: dict[str, Answer] = {}
    said = time.monotonic()
    while len(found) < len(jobs):
        # The queue is worked off in order: beyond the slots nothing runs that one has to look at.
        for each in [each for each in jobs if each not in found][:LOOKED_AT]:
            answer = http.get(f"/api/v1/jobs/{each}").json()
            if answer["done"]:
                found[each] = answer
            else:
                seen(each, answer)
        if time.monotonic() - said > SAID_EVERY_S:
            said = time.monotonic()
            print(f"  {len(found)} of {len(jobs)}", flush=True)
        time.sleep(0.02)
    return [found[each] for each in jobs]


class Killer:
    """Kills all trainers at work as soon as a job that was not hit yet has measured two epochs."""

    def __init__(self, pid: int) -> None:
        self.hit: set[str] = set()
        self._pid = pid

    def __call__(self, job: str, answer: Answer) -> None:
        """Looks at a job that is not done."""
        if job not in self.hit and answer["progress"]["epoch"] >= 2:
            self.hit.add(job)
            for child in trainers(self._pid):
                with suppress(ProcessLookupError):
                    kill(child, SIGKILL)


def digest(http: httpx2.Client, found: Answer) -> str | None:
    """The digest of a job's weights, None for a job that failed."""
    return str(http.get(f"/api/v1/models/{found['model']}").json()["sha256"]) if found["state"] == "succeeded" else None


def asked(http: httpx2.Client, found: Answer) -> list[str]:
    """Modes whose answer on a row of the dataset is neither one nor `mode-unavailable`."""
    row = http.get(f"/api/v1/datasets/{found['spec']['dataset']}/rows", params={"limit": 1}).json()["items"][0]["values"]
    names = [field["name"] for field in http.get(f"/api/v1/models/{found['model']}").json()["signature"]["inputs"]]
    inputs = [{name: row[name] for name in names}]
    wrong = []
    for mode in MODES:
        answer = http.post(f"/api/v1/models/{found['model']}/predict", json={"inputs": inputs, "mode": mode})
        if answer.status_code != 200 and not answer.json()["type"].endswith("mode-unavailable"):
            wrong.append(f"{mode}: {answer.text}")
    return wrong


def refusals(http: httpx2.Client) -> list[str]:
    """Pairs that are declared not to go together and are not refused so."""
    wrong = []
    for pair, declared in refused().items():
        answer = http.post("/api/v1/jobs:validate", json=job(dict(pair)))
        told = {(error["pointer"], error["code"]) for error in answer.json().get("errors", [])}
        if answer.status_code != 422 or (declared.pointer, declared.code) not in told:
            wrong.append(f"{pair}: {answer.text}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--skip", type=int, default=0)
    given = parser.parse_args()
    declared = refused()
    rows = covering_array(NAMES, declared, most=given.jobs)[given.skip :]
    wrong: list[Any] = []
    with service(environment={"TEMPER_MAX_ATTEMPTS": "1000"}) as (http, launched):
        assert launched.process is not None
        upload(http)
        wrong += refusals(http)
        straight = done(http, [submitted(http, row, f"straight-{i}") for i, row in enumerate(rows)])
        killer = Killer(launched.process.pid)
        again = done(http, [submitted(http, row, f"killed-{i}") for i, row in enumerate(rows)], killer)
        for row, one, other in zip(rows, straight, again, strict=True):
            if one["state"] != "succeeded" or digest(http, one) != digest(http, other):
                wrong.append((row, one["error"], other["error"]))
            else:
                wrong += [(row, said) for said in asked(http, one)]
    pairs = [pair for pair in pairs_of(NAMES) if pair not in declared]
    seen = len(set().union(*map(pairs_in, rows)))
    for found in wrong:
        print(f"  {found}")
    print(
        f"{len(rows)} jobs with {seen} of {len(pairs)} pairs, {len(declared)} pairs refused as declared; kills met {len(killer.hit)} jobs"
    )
    print(f"same SHA-256 as undisturbed, and every mode answers: {'holds' if not wrong else 'FALLS SHORT'}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
