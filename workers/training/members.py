"""A shard of members, trained one by one or side by side, resumed from its last checkpoint."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from service.inference.material import Material
from service.nets.network import stackable
from service.tricks.stopping import improves
from workers.messages import Assignment, Checkpointed, Done, Drained, Progress
from workers.training.checkpointing import Writer, newest, pack, read, write_bytes
from workers.training.link import Link
from workers.training.loop import Epoch, train
from workers.training.run import BEST, Member, Run, build, start
from workers.training.task import Task

LONG_EPOCH_S = 30.0
ORDERED = ("user_stop", "time_limit")
"""Reasons that end the whole shard."""
Summary = dict[str, Any]


class Shard:
    """The members of one shard: those that are done, those that train, and what is left."""

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
        self._resumed_at = self._fraction(())
        for group in self._groups():
            run = start(self.material, group, self.device, stacked=len(group) > 1)
            if saved and saved[0]["members"] == list(group):
                run.restore(*saved[1])
                self._resumed_at = self._fraction(run.members, run.epoch)
                self.link.log(f"{_named(run)} resumed at epoch {run.epoch}, step {run.step}")
            if not self._train(run):
                return Drained()
            self.writer.finish()
            for member in run.members:
                self._close(member, run)
            if run.reason in ORDERED:
                return Done({"members": self.done, "ordered": run.reason})
        return Done({"members": self.done, "ordered": None})

    def _groups(self) -> list[tuple[int, ...]]:
        """The members still to be trained, as many side by side as the engine has it; who is done leaves no gap behind."""
        members, done = self.assignment.members, {summary["member"] for summary in self.done}
        size = self.assignment.stack if stackable(build(self.material, None)) else 1
        groups = [tuple(m for m in members[at : at + size] if m not in done) for at in range(0, len(members), size)]
        return [group for group in groups if group]

    def _train(self, run: Run) -> bool:
        """Train a group to its end; False when the worker drains."""
        task = Task(self.material, run, self.device, beat=lambda: self._report(run, 0.0))
        rows = len(self.material.parts.train)
        self.link.log(f"{_named(run)}: {task.batches.rows} of {rows} training rows, {len(task.batches)} steps an epoch")
        for record in train(run, task):
            if not self._stepped:
                self._stepped = True
                self.link.log(f"first step at {datetime.now(UTC).isoformat(timespec='milliseconds')}")
            if isinstance(record, Epoch):
                self._take(record, run)
            self._report(run, 0.0 if isinstance(record, Epoch) else record.share)
            order = self.link.order
            if order is not None and order.startswith("stop") and run.reason is None:
                run.end(order.partition(":")[2] or "user_stop")
            elif order == "drain" and run.reason is None:
                self._checkpoint(run)
                self.writer.wait()
                return False
            elif self._due(isinstance(record, Epoch)) and run.reason is None:
                self._checkpoint(run)
        return True

    def _take(self, record: Epoch, run: Run) -> None:
        """Report what an epoch measured; the weights of who ended are stored before a checkpoint leaves them out."""
        for number, values in record.measured.items():
            self.link.metrics([(number, record.epoch, name, value) for name, value in values.items()])
        if run.reason is None:
            for member in record.ended:
                self._close(member, run)

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
        about = {"members": [m.number for m in run.members], "done": list(self.done), "epoch": run.epoch, "step": run.step}
        self.writer.save(weights, rest, about, lasting=BEST)
        run.settle = self.writer.settled
        self._saved, self._saves = time.monotonic(), self._saves + 1

    def _close(self, member: Member, run: Run) -> None:
        """Keep what a member that ended has learnt; nothing of one that never finished an epoch."""
        best = f", best {member.patience.best:.6g} at epoch {member.patience.epoch}" if member.patience.best is not None else ""
        self.link.log(f"member {member.number} ended after {run.epoch} epochs and {run.step} steps: {member.reason}{best}")
        if not member.best:
            return
        key = f"{self.assignment.scratch_key}/member-{member.number}.safetensors"
        self.done.append(
            {
                "member": member.number,
                "file": write_bytes(self.store, key, pack(member.best)),
                "best": member.patience.best,
                "best_epoch": member.patience.epoch,
                "best_step": member.patience.step,
                "stopped_epoch": run.epoch,
                "stopped_step": run.step,
                "stop_reason": member.reason,
                "history": write_bytes(self.store, key.replace(".safetensors", ".json"), json.dumps(member.history).encode()),
            }
        )

    def _fraction(self, members: Sequence[Member], epochs: float = 0.0) -> float:
        """The share of the shard's work that is done, with that many epochs of the members that train."""
        part = min(1.0, epochs / self.material.spec.epochs)
        return (len(self.done) + len(members) * part) / len(self.assignment.members)

    def _report(self, run: Run, share: float) -> None:
        fraction = self._fraction(run.members, run.epoch + share)
        elapsed, gained = time.monotonic() - self._began, fraction - self._resumed_at
        eta = elapsed * (1 - fraction) / gained if gained > 0 else None
        self.link.progress(Progress(fraction, run.epoch, len(self.done), eta, "training", self._best(run)))

    def _best(self, run: Run) -> dict[str, Any] | None:
        """The best monitor among the members that train."""
        watched, found = self.material.spec.monitored, [m.patience for m in run.members if m.patience.best is not None]
        if watched is None or not found:
            return None
        sign = -1.0 if improves(watched.removeprefix("validation.")) == "up" else 1.0
        best = min(found, key=lambda patience: sign * float(patience.best or 0.0))
        return {"metric": watched, "value": best.best, "epoch": best.epoch}


def _named(run: Run) -> str:
    """The members of a run in words."""
    numbers = [member.number for member in run.members]
    return f"member {numbers[0]}" if len(numbers) == 1 else f"members {', '.join(map(str, numbers))} side by side"
