"""A shard of members, trained one by one or side by side, resumed from its last checkpoint."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from torch import Tensor

from service.inference.material import Material
from service.nets.network import stackable
from service.tricks.stopping import improves
from workers.messages import Assignment, Checkpointed, Done, Drained, Progress
from workers.training.checkpointing import Record, Writer, newest, read
from workers.training.link import Link
from workers.training.loop import Epoch, train
from workers.training.retraining import begin, blank, follows
from workers.training.run import KEPT, Member, Run, build, start
from workers.training.summaries import Summary, conclude, remember, summarize
from workers.training.task import Task

LONG_EPOCH_S = 30.0
ORDERED = ("user_stop", "time_limit")
"""Reasons that end the whole shard."""
Saved = tuple[Record, tuple[dict[str, Tensor], dict[str, Any]]]


class Shard:
    """The members of one shard: those that are done, those that wait for a second phase, those that train, and what is left."""

    def __init__(self, assignment: Assignment, material: Material, link: Link, device: torch.device) -> None:
        self.assignment = assignment
        self.material = material
        self.link = link
        self.device = device
        self.store = assignment.store
        self.done: list[Summary] = []
        self.waiting: list[Summary] = []
        self.writer = Writer(self.store, assignment.scratch_key, lambda record: link.send(Checkpointed(record)))
        self._began = time.monotonic()
        self._saved = 0.0
        self._saves = 0
        self._resumed_at = 0.0
        self._stepped = False

    def run(self) -> Done | Drained:
        """Train what is left of the shard."""
        saved = newest(self.assignment.checkpoint, partial(read, self.store), self.link.log)
        if saved:
            self.done, self.waiting = list(saved[0]["done"]), list(saved[0].get("waiting", ()))
        self._resumed_at = self._fraction()
        for run in self._runs(saved):
            if not self._train(run):
                return Drained()
            self.writer.finish()
            for member in run.members:
                self._close(member, run)
            if run.reason in ORDERED:
                self.done += [{**summary, "stop_reason": run.reason} for summary in self.waiting]
                return Done({"members": self.done, "ordered": run.reason})
        return Done({"members": self.done, "ordered": None})

    def _runs(self, saved: Saved | None) -> Iterator[Run]:
        """First all first phases, so that whoever is stopped has something to keep; then the second ones, member by member."""
        for group, stacked in self._groups():
            run = start(self.material, group, self.device, stacked=stacked)
            self._resume(run, saved, "training")
            yield run
        for summary in list(self.waiting):
            run = blank(self.material, summary["member"], self.device)
            yield run if self._resume(run, saved, "retraining") else self._second(summary)

    def _resume(self, run: Run, saved: Saved | None, phase: str) -> bool:
        """Take up the checkpoint, if it is of these members in that phase."""
        numbers = [member.number for member in run.members]
        if saved is None or (saved[0]["members"], saved[0].get("phase", "training")) != (numbers, phase):
            return False
        run.restore(*saved[1])
        self._resumed_at = self._fraction(run)
        self.link.log(f"{_named(run)} resumed at epoch {run.epoch}, step {run.step}")
        return True

    def _second(self, summary: Summary) -> Run:
        """The second phase of a member that waits for it, at its beginning."""
        epochs, done = summary["stopped_epoch"], len(self.done)
        measuring = Progress(self._fraction(), epochs, done, None, "retraining", None)
        run = begin(self.material, remember(summary, self.store), epochs, self.device, beat=lambda: self.link.progress(measuring))
        if run.second is not None:
            steps, threshold = run.second.last - run.second.step, run.second.threshold
            until = "" if threshold is None else f" at most, until the loss on validation rows is {threshold:.6g}"
            self.link.log(f"{_named(run)} trains on validation rows too, {steps} steps{until}")
        return run

    def _groups(self) -> list[tuple[tuple[int, ...], bool]]:
        """The members still to be trained, as many side by side as the engine has it; who is done leaves no gap behind.

        With each group whether it is a stack, which it stays when one member is left: so its checkpoints have it.
        """
        members, done = self.assignment.members, {summary["member"] for summary in (*self.done, *self.waiting)}
        size = self.assignment.stack if stackable(build(self.material, None)) else 1
        together = [members[at : at + size] for at in range(0, len(members), size)]
        groups = [(tuple(m for m in group if m not in done), len(group) > 1) for group in together]
        return [(left, stacked) for left, stacked in groups if left]

    def _train(self, run: Run) -> bool:
        """Train a group to its end; False when the worker drains."""
        task = Task(self.material, run, self.device, beat=lambda: self._report(run, 0.0))
        rows = f" of {len(self.material.parts.train)}" if run.second is None else ""
        self.link.log(f"{_named(run)}: {task.batches.rows}{rows} training rows, {len(task.batches)} steps an epoch")
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
        for note in record.notes:
            self.link.log(note, "warning")
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
        about |= {"waiting": list(self.waiting), "phase": "training" if run.second is None else "retraining"}
        self.writer.save(weights, rest, about, lasting=KEPT)
        run.settle = self.writer.settled
        self._saved, self._saves = time.monotonic(), self._saves + 1

    def _close(self, member: Member, run: Run) -> None:
        """Keep what a member that ended has learnt; nothing of one that never finished an epoch."""
        best = f", best {member.patience.best:.6g} at epoch {member.patience.epoch}" if member.patience.best is not None else ""
        self.link.log(f"member {member.number} ended after {run.epoch} epochs and {run.step} steps: {member.reason}{best}")
        if not member.best:
            return
        if member.second is not None:
            place = [summary["member"] for summary in self.waiting].index(member.number)
            self.done.append(conclude(self.waiting.pop(place), run, self.store, self.assignment.scratch_key))
            return
        summary = summarize(member, run, self.material, self.store, self.assignment.scratch_key)
        (self.waiting if follows(self.material, member.reason) else self.done).append(summary)

    def _fraction(self, run: Run | None = None, share: float = 0.0) -> float:
        """The share of the shard's work that is done, with the epochs of the members that train and a share of one more."""
        epochs, stopping = self.material.spec.epochs, self.material.spec.early_stopping
        first = stopping.first_share(epochs) if stopping is not None else 1.0
        done = len(self.done) + first * len(self.waiting)
        if run is not None and run.second is not None:
            done += (1 - first) * run.second.share(run.step)
        elif run is not None:
            done += first * len(run.members) * min(1.0, (run.epoch + share) / epochs)
        return done / len(self.assignment.members)

    def _report(self, run: Run, share: float) -> None:
        fraction = self._fraction(run, share)
        elapsed, gained = time.monotonic() - self._began, fraction - self._resumed_at
        eta = elapsed * (1 - fraction) / gained if gained > 0 else None
        phase = "training" if run.second is None else "retraining"
        self.link.progress(Progress(fraction, run.epoch, len(self.done), eta, phase, self._best(run)))

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
