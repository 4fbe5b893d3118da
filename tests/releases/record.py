"""Keep what a release made, for all later ones to be tested against: python -m tests.releases.record VERSION.

Specs as they were posted and resolved, models with their files and answers, and the SQL of a job's life, as an older worker
would say it to a newer schema. Recorded once for each release, never again.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPICursor

from service.storage import jobs, migrate, shards
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.metrics import Metric
from service.storage.models import ModelDraft
from service.storage.sessions import Database
from temper.embedded.launch import Launch

HERE = Path(__file__).parent
ROWS = 3
SPECS: dict[str, dict[str, Any]] = {
    "smallest": {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [4]}, "epochs": 2},
    "linear": {"dataset": "diabetes", "architecture": {"type": "mlp", "hidden": []}, "epochs": 2, "preprocessing": {"normalize": "minmax"}},
    "everything": {
        "dataset": "digits",
        "split": {"validation": 0.15, "test": 0.15, "stratify": True, "seed": 0},
        "targets": [{"name": "label", "task": "classification", "weight": 1.0}],
        "preprocessing": {"normalize": "standard"},
        "architecture": {"type": "mlp", "hidden": [4, 3], "activation": "relu", "dropout": {"input": 0.2, "hidden": 0.5}},
        "regularizers": [{"type": "l2", "alpha": 1e-4}, {"type": "l1", "alpha": 1e-5, "layers": ["hidden.0"]}],
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
        "adversarial_training": {"method": "fgsm", "epsilon": 1.0, "weight": 0.5},
        "ensemble": {"size": 2, "bootstrap": True},
        "optimizer": {"type": "adam", "learning_rate": 1e-3},
        "schedule": {"type": "cosine"},
        "epochs": 3,
        "batch_size": 64,
        "early_stopping": {"monitor": "loss", "patience": 10, "min_delta": 0.0, "then": "restore_best"},
        "gradient_clip": {"norm": 5.0},
        "seed": 0,
    },
    "density": {
        "dataset": "diabetes",
        "targets": [{"name": "target", "task": "regression", "loss": "gaussian_nll"}],
        "architecture": {"type": "mlp", "hidden": [3, 3, 3], "residual": True, "batch_norm": True, "init": "he", "activation": "gelu"},
        "regularizers": [{"type": "elastic_net", "l1": 1e-4, "l2": 1e-4}, {"type": "max_norm", "limit": 3.0}],
        "optimizer": {"type": "sgd", "learning_rate": 0.01, "nesterov": True},
        "schedule": {"type": "step", "every": 1, "factor": 0.5},
        "ensemble": {"size": 2},
        "epochs": 2,
    },
}


def models(folder: Path) -> None:
    """Train every spec; keep its resolved form, the model's files and what it answers in every mode."""
    with TemporaryDirectory() as data, Launch(Path(data) / "data", workers=1) as launched, httpx2.Client(base_url=launched.url) as http:
        for name, spec in SPECS.items():
            home = folder / name
            home.mkdir(parents=True)
            job = http.post("/api/v1/jobs", json={**spec, "name": name}).raise_for_status().json()
            while not job["done"]:
                job = http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 5, "since": job["version"]}, timeout=30).json()
            for file in ("spec.json", "encoding.json", "model.safetensors"):
                (home / file).write_bytes(http.get(f"/api/v1/models/{name}/files/{file}").raise_for_status().content)
            rows = http.get(f"/api/v1/datasets/{spec['dataset']}/rows", params={"limit": ROWS}).json()["items"]
            signature = http.get(f"/api/v1/models/{name}").json()["signature"]
            inputs = [[row["values"][field["name"]] for field in signature["inputs"]] for row in rows]
            inputs = [row[0] for row in inputs] if len(signature["inputs"]) == 1 else inputs
            answers = {}
            for mode in ("single", "weight_scaled", "monte_carlo", "exact", "ensemble"):
                asked = {"inputs": inputs, "mode": mode, "samples": 7, "seed": 3}
                answer = http.post(f"/api/v1/models/{name}/predict", json=asked)
                if answer.status_code == 200:
                    answers[mode] = answer.json()["targets"]
            kept = {"posted": spec, "inputs": inputs, "answers": answers}
            (home / "kept.json").write_text(json.dumps(kept, indent=1))


def life(folder: Path) -> None:
    """The SQL of a job's life on SQLite, statement by statement."""
    said: list[tuple[str, list[Any]]] = []
    with TemporaryDirectory() as data:
        url = f"sqlite:///{Path(data) / 'temper.db'}"
        migrate.upgrade(url)
        database = Database(url)

        @event.listens_for(database._writing, "before_cursor_execute")
        def listen(_c: Any, _cursor: DBAPICursor, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            if not statement.startswith("BEGIN"):
                said.extend((statement, list(each)) for each in (parameters if many else [parameters]))

        draft = JobDraft("train", "old", {"epochs": 1}, 1, 1)
        with database.write() as c:
            job = jobs.insert(c, "default", draft, [ShardDraft("train", (0,))])
        for step in (_learn, _publish):
            with database.write() as c:
                claim = shards.claim(c, "old worker", 60, max_attempts=3, engine={"threads": 1})
            if claim is None:
                raise RuntimeError("nothing was there to be claimed")
            with database.write() as c:
                step(c, claim)
        with database.write() as c:
            jobs.get(c, "default", job)
        database.close()
    (folder / "life.json").write_text(json.dumps({"job": job, "statements": said}, indent=0))


def _learn(c: Any, claim: shards.Claim) -> None:
    shards.heartbeat(c, claim, 60, {"fraction": 0.5, "members": []})
    shards.record(c, claim, values=[Metric(0, 1, "train.loss", 0.5)], lines=[("info", "hello")])
    shards.checkpoint(c, claim, {"key": "k", "sha256": "0", "size": 1})
    shards.finish(c, claim, {"members": [0], "ordered": None})


def _publish(c: Any, claim: shards.Claim) -> None:
    draft = ModelDraft(
        id="mdl_01000000000000000000000000", name="old", spec={}, signature={}, layers=[], parameters=1, metrics={}, members=1, files={},
        sha256="0",
    )  # fmt: skip
    shards.publish(c, claim, shards.Outcome(model=draft, result={}, best=None, stop_reason="epochs"))


if __name__ == "__main__":
    home = HERE / sys.argv[1]
    home.mkdir()
    models(home)
    life(home)
