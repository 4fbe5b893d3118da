"""The estimate of a job's memory beside the peak of its trainers, over 32 specs by HTTP: python -m benchmarks.memory [--only WORD]

The estimate is that of `jobs:validate`; the peak is the largest resident set (VmHWM, the kernel's own high-water mark) of any trainer
of the job, those that train and the one that publishes. What a memory map shows of a dataset's file is not counted as a need, and the
datasets here are small enough for it not to matter.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx2
import numpy as np

from benchmarks.multitask import upload
from benchmarks.service import Answer, run, service
from tests.system.desk import command, descendants

MIB = 2**20
WITHIN = 0.25
LOOK_S = 0.005
MLP, CNN = {"type": "mlp"}, {"type": "cnn"}
FGSM = {"method": "fgsm", "epsilon": 8.0}
PGD = {"method": "pgd", "epsilon": 8.0, "steps": 3}
SGD = {"type": "sgd", "learning_rate": 0.01, "momentum": 0.9}
KEEP = {"type": "l0", "method": "projection", "keep": 0.1}
ROWS = 1000


def specs() -> list[tuple[str, Answer]]:
    """What is posted, by name."""
    half = {"input": 0.2, "hidden": 0.5}
    nets: list[tuple[str, str, Answer, Answer]] = [
        ("mlp small", "digits", {**MLP, "hidden": [64]}, {}),
        ("mlp wide", "pictures", {**MLP, "hidden": [2048, 2048]}, {}),
        ("mlp wide dropout", "pictures", {**MLP, "hidden": [2048, 2048], "dropout": half}, {"batch_size": 512}),
        ("mlp wide fgsm", "pictures", {**MLP, "hidden": [2048, 2048]}, {"adversarial_training": FGSM, "batch_size": 256}),
        ("mlp wider", "pictures", {**MLP, "hidden": [4096, 2048]}, {"optimizer": SGD}),
        ("mlp wider adamw", "pictures", {**MLP, "hidden": [4096, 2048]}, {"optimizer": {"type": "adamw"}}),
        ("mlp members", "digits", {**MLP, "hidden": [256, 128]}, {"ensemble": {"size": 16}, "batch_size": 512}),
        ("mlp batch norm", "pictures", {**MLP, "hidden": [512] * 20, "batch_norm": True}, {"batch_size": 800}),
        ("mlp full batch", "table", {**MLP, "hidden": [256, 256]}, {"batch_size": "full"}),
        ("mlp compiled l1", "table", {**MLP, "hidden": [64, 64]}, {"regularizers": [{"type": "l1", "alpha": 1e-4}]}),
        ("mlp compiled gates", "digits", {**MLP, "hidden": [256, 128]}, {"regularizers": [{"type": "l0", "alpha": 1e-3}]}),
        ("mlp compiled projection", "pictures", {**MLP, "hidden": [512]}, {"regularizers": [KEEP]}),
        ("cnn small", "digits", {**CNN, "channels": [16, 32]}, {}),
        ("cnn", "pictures", {**CNN, "channels": [32, 64]}, {"batch_size": 128}),
        ("cnn batch", "pictures", {**CNN, "channels": [32, 64]}, {"batch_size": 512}),
        ("cnn dropout", "pictures", {**CNN, "channels": [32, 64], "dropout": {"channel": 0.2, "hidden": 0.5}}, {"batch_size": 256}),
        ("cnn batch norm", "pictures", {**CNN, "channels": [32, 64, 128], "batch_norm": True}, {"batch_size": 512}),
        ("cnn fgsm", "pictures", {**CNN, "channels": [32, 64]}, {"batch_size": 256, "adversarial_training": FGSM}),
        ("cnn pgd", "pictures", {**CNN, "channels": [32, 64]}, {"batch_size": 256, "adversarial_training": PGD}),
        ("cnn members", "pictures", {**CNN, "channels": [32, 64]}, {"ensemble": {"size": 4}, "batch_size": 128, "optimizer": SGD}),
        ("resnet 8", "pictures", {"type": "resnet", "depth": 8}, {"batch_size": 128}),
        ("resnet 20", "pictures", {"type": "resnet", "depth": 20}, {"batch_size": 128, "optimizer": SGD}),
        ("resnet 20 batch", "pictures", {"type": "resnet", "depth": 20}, {"batch_size": 512}),
        ("resnet bottleneck", "pictures", {"type": "resnet", "depth": 20, "block": "bottleneck"}, {"batch_size": 128}),
        ("resnet preactivation", "pictures", {"type": "resnet", "depth": 8, "width": 32, "block": "preactivation"}, {"batch_size": 256}),
        ("conv_autoencoder", "pictures", {"type": "conv_autoencoder", "channels": [32, 64], "kernel": 4, "code": 64}, {"batch_size": 256}),
        ("conv_autoencoder unpooling", "pictures",
         {"type": "conv_autoencoder", "channels": [16, 32], "upsampling": "unpooling"}, {"batch_size": 512}),
        ("autoencoder", "pictures", {"type": "autoencoder", "hidden": [1024, 256], "code": 32}, {"batch_size": 512}),
        ("autoencoder members", "digits", {"type": "autoencoder", "hidden": [128], "code": 8, "tied": True}, {"ensemble": {"size": 8}}),
        ("lstm", "sequences", {"type": "recurrent", "hidden": [128]}, {"batch_size": 256}),
        ("gru two ways", "sequences", {"type": "recurrent", "cell": "gru", "hidden": [64, 64], "bidirectional": True}, {"batch_size": 512}),
        ("rnn", "sequences", {"type": "recurrent", "cell": "rnn", "hidden": [128], "dropout": 0.3}, {"batch_size": 128}),
    ]  # fmt: skip
    return [(name, posted(dataset, net, more)) for name, dataset, net, more in nets]


def posted(dataset: str, architecture: Answer, more: Answer) -> Answer:
    """Two epochs are enough: after the first a checkpoint is written, beside which the second trains."""
    return {
        "dataset": dataset, "architecture": architecture, "split": {"validation": 0.1, "test": 0.1},
        "epochs": 2, "checkpoint_interval_s": 0, **more,
    }  # fmt: skip


def send(http: httpx2.Client) -> None:
    """The datasets: images, sequences, and a table, which is encoded into memory."""
    stream = np.random.default_rng(0)
    y = np.arange(ROWS) % 10
    upload(http, "pictures", {"x": stream.integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8), "y": y})
    upload(http, "sequences", {"x": stream.normal(size=(ROWS, 60, 8)).astype(np.float32), "y": y})
    text = io.StringIO()
    columns = stream.normal(size=(20_000, 40))
    np.savetxt(
        text,
        np.column_stack([columns, columns[:, 0] * 2]),
        fmt="%.4f",
        delimiter=",",
        header=",".join(f"c{i}" for i in range(41)),
        comments="",
    )
    answer = http.post("/api/v1/datasets", files={"file": ("table.csv", text.getvalue())}, data={"name": "table"})
    if answer.status_code != 201:
        raise SystemExit(answer.text)


class Watch:
    """The largest resident set of any trainer that the fork server has started since it was asked to forget."""

    def __init__(self, root: int) -> None:
        self._root, self._server = root, 0
        self.peak: dict[int, int] = {}

    def look(self) -> None:
        """Note what every trainer's high-water mark is now."""
        if not self._server:
            self._server = next((pid for pid in descendants(self._root) if b"forkserver" in command(pid)), 0)
        for pid in self._children():
            self.peak[pid] = max(self.peak.get(pid, 0), high_water(pid))

    def _children(self) -> list[int]:
        try:
            return [int(pid) for pid in Path(f"/proc/{self._server}/task/{self._server}/children").read_text().split()]
        except OSError:
            return []


def high_water(pid: int) -> int:
    """VmHWM in bytes; 0 of a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Look at the trainers all the while."""
    done = Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            watch.look()

    thread = Thread(target=look, daemon=True)
    thread.start()
    yield
    done.set()
    thread.join()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="specs whose names hold this word")
    word = parser.parse_args().only
    rows: list[tuple[str, int, int]] = []
    with service(workers=1) as (http, launched):
        assert launched.process is not None
        send(http)
        watch = Watch(launched.process.pid)
        with watching(watch):
            for name, spec in specs():
                if word not in name:
                    continue
                planned = http.post("/api/v1/jobs:validate", json=spec)
                planned.raise_for_status()
                watch.peak.clear()
                run(http, spec)
                time.sleep(10 * LOOK_S)
                rows.append((name, planned.json()["memory_bytes"], max(watch.peak.values())))
                show(*rows[-1], list(watch.peak.values()))
    worst = max(abs(estimate / peak - 1) for _, estimate, peak in rows)
    said = "holds" if worst <= WITHIN else "FALLS SHORT"
    print(f"{len(rows)} specs; the furthest estimate is off by {100 * worst:.0f} %, at most {100 * WITHIN:g} %: {said}")
    return 0 if worst <= WITHIN else 1


def show(name: str, estimate: int, peak: int, each: list[int]) -> None:
    """Print a spec's two numbers, and every trainer's own."""
    print(
        f"{name:28s} {estimate / MIB:7.0f} of {peak / MIB:7.0f} MiB   {estimate / peak:.2f}   {[value // MIB for value in each]}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
