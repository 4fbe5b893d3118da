"""A shard of members, trained one after the other, resumed from its last checkpoint."""

import json
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from service.inference.material import Material
from workers.messages import Assignment, Checkpointed, Done, Drained, Progress
from workers.training.checkpointing import Writer, newest, pack, read, write_bytes
from workers.training.link import Link
from workers.training.loop import Epoch, Task, train
from workers.training.run import Run, start

LONG_EPOCH_S = 30.0
ORDERED = ("user_stop", "time_limit")
"""Reasons that end the whole shard."""
Summary = dict[str, Any]


class Shard:
    """The members of one shard: those that are done, the one that trains, and what is left."""

    def __init__(self, assignment: Assignment, material: Material, link: Link, device: torch.device) -> None:
        self.assignment = assignment
        self.material = material
        self.link = link
        self.device = device
        self.store = assignment.store
        self.done: list[Summary] = []
        self.writer = Writer(self.store, assignment.scratch_key, lambda record: link.send(Checkpointed(record)))
        self._began = time.monotonic()
        self._saved = 0.0
        self._saves = 0
        self._resumed_at = 0.0
        self._stepped = False

    def run(self) -> Done | Drained:
        """Train what is left of the shard."""
        saved = newest(self.assignment.checkpoint, partial(read, self.store), self.link.log)
        self.done = list(saved[0]["done"]) if saved else []
        self._resumed_at = len(self.done) / len(self.assignment.members)
        for member in self.assignment.members[len(self.done) :]:
            run = start(self.material, member, self.device)
            if saved and saved[0]["member"] == member:
                run.restore(*saved[1])
                self._resumed_at += min(1.0, run.epoch / self.material.spec.epochs) / len(self.assignment.members)
                self.link.log(f"member {member} resumed at epoch {run.epoch}, step {run.step}")
            if not self._train(run):
                return Drained()
            self.writer.finish()
            summary = self._summary(run)
            best = f", best {run.patience.best:.6g} at epoch {run.patience.epoch}" if run.patience.best is not None else ""
            self.link.log(f"member {run.member} ended after {run.epoch} epochs and {run.step} steps: {run.reason}{best}")
            if summary is not None:
                self.done.append(summary)
            if run.reason in ORDERED:
                return Done({"members": self.done, "ordered": run.reason})
        return Done({"members": self.done, "ordered": None})

    def _train(self, run: Run) -> bool:
        """Train one member to its end; False when the worker drains."""
        task = Task(self.material, run, self.device, beat=lambda: self._report(run, 0.0))
        rows = len(self.material.parts.train)
        self.link.log(f"member {run.member} trains on {task.batches.rows} of {rows} training rows, {len(task.batches)} steps an epoch")
        for record in train(run, task):
            if not self._stepped:
                self._stepped = True
                self.link.log(f"first step at {datetime.now(UTC).isoformat(timespec='milliseconds')}")
            if isinstance(record, Epoch):
                self.link.metrics([(run.member, record.epoch, name, value) for name, value in record.values.items()])
            self._report(run, 0.0 if isinstance(record, Epoch) else record.share)
            order = self.link.order
            if order is not None and order.startswith("stop") and run.reason is None:
                run.reason = order.partition(":")[2] or "user_stop"
            elif order == "drain" and run.reason is None:
                self._checkpoint(run)
                self.writer.wait()
                return False
            elif self._due(isinstance(record, Epoch)) and run.reason is None:
                self._checkpoint(run)
        return True

    def _due(self, between_epochs: bool) -> bool:
        """At the first epoch's end, then once per interval; inside an epoch only when it is very long."""
        if self.writer.busy:
            return False
        since = time.monotonic() - self._saved
        if not between_epochs:
            return since > LONG_EPOCH_S and time.monotonic() - self._began > LONG_EPOCH_S
        return self._saves == 0 or since >= self.material.spec.checkpoint_interval_s

    def _checkpoint(self, run: Run) -> None:
        weights, rest = run.capture()
        about = {"member": run.member, "done": list(self.done), "epoch": run.epoch, "step": run.step}
        self.writer.save(weights, rest, about)
        self._saved, self._saves = time.monotonic(), self._saves + 1

    def _summary(self, run: Run) -> Summary | None:
        """What is kept of a member; None when it never finished an epoch."""
        if not run.best:
            return None
        key = f"{self.assignment.scratch_key}/member-{run.member}.safetensors"
        return {
            "member": run.member,
            "file": write_bytes(self.store, key, pack(run.best)),
            "best": run.patience.best,
            "best_epoch": run.patience.epoch,
            "best_step": run.patience.step,
            "stopped_epoch": run.epoch,
            "stopped_step": run.step,
            "stop_reason": run.reason,
            "history": write_bytes(self.store, key.replace(".safetensors", ".json"), json.dumps(run.history).encode()),
        }

    def _report(self, run: Run, share: float) -> None:
        members, epochs = len(self.assignment.members), self.material.spec.epochs
        fraction = (len(self.done) + min(1.0, (run.epoch + share) / epochs)) / members
        elapsed, gained = time.monotonic() - self._began, fraction - self._resumed_at
        eta = elapsed * (1 - fraction) / gained if gained > 0 else None
        best = None
        if run.patience.best is not None:
            best = {"metric": self.material.spec.monitored, "value": run.patience.best, "epoch": run.patience.epoch}
        self.link.progress(Progress(fraction, run.epoch, len(self.done), eta, "training", best))
