"""A subset of CIFAR-10 on the CPU, over HTTP: resnet-20, its plain twin and a cnn; accuracies on the 2,000 test images.

10,000 training images, a fifth of CIFAR-10 and stored as JPEG: published figures are out of reach, what is compared is the three with each
other. Run: python -m benchmarks.cifar [--epochs N] [--only NAME]
"""

import argparse
import json
import time
from typing import Any

import httpx2

from benchmarks.service import DATA, Answer, present, report, service
from benchmarks.uci import finished

RESNET: dict[str, Any] = {"type": "resnet", "depth": 20}
NETS: dict[str, dict[str, Any]] = {
    "cnn": {"type": "cnn", "channels": [32, 64, 128], "hidden": [128], "batch_norm": True},
    "resnet-20": RESNET,
    "plain-20": {**RESNET, "residual": False},
}


def posted(name: str, epochs: int) -> Answer:
    """The spec: the archive's own split, one learning rate for all three, flips and shifts."""
    return {
        "name": name, "dataset": "cifar10", "architecture": NETS[name], "split": "given",
        "augmentation": [{"type": "flip", "axis": "horizontal", "probability": 0.5}, {"type": "translate", "pixels": 4}],
        "optimizer": {"type": "adam", "learning_rate": 2e-3}, "schedule": {"type": "cosine"},
        "epochs": epochs, "batch_size": 128, "seed": 0,
    }  # fmt: skip


def upload_cifar(http: httpx2.Client) -> None:
    """The archive of class folders, as the dataset `cifar10`, which a horizontal flip does not change."""
    with present(DATA / "cifar10-12k.zip").open("rb") as file:
        told = {"name": "cifar10", "schema": json.dumps({"invariances": {"horizontal_flip": True, "translation_pixels": 4}})}
        answer = http.post("/api/v1/datasets", files={"file": ("cifar10.zip", file, "application/zip")}, data=told)
    if answer.status_code != 201:
        raise SystemExit(answer.text)
    print(f"{answer.json()['splits']}, {answer.json()['fields'][0]['shape']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=list(NETS), choices=list(NETS))
    asked = parser.parse_args()
    began = time.monotonic()
    with service() as (http, _):
        upload_cifar(http)
        jobs = {}
        for name in asked.only:  # side by side, one on each slot
            spec = posted(name, asked.epochs)
            print(json.dumps(spec))
            answer = http.post("/api/v1/jobs", json=spec)
            if answer.status_code != 202:
                raise SystemExit(answer.text)
            jobs[name] = answer.json()
        for name, job in jobs.items():
            done = finished(http, job)
            found = report(http, done)["splits"]
            parameters = http.get(f"/api/v1/models/{done['model']}").json()["parameters"]
            said = ", ".join(f"{part} {100 * found[part]['accuracy']:.1f} %" for part in ("train", "validation", "test"))
            print(f"{name:10s} {parameters:7d} parameters, accuracy: {said}; after {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
