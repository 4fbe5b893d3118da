"""Shards of a robustness job: rows attacked here, results joined in the last shard."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from service.data.columns import stored
from service.inference.curves import piece
from service.inference.material import prepare
from service.inference.model import from_files
from service.inference.neighbours import MOST_ROWS, Neighbours
from service.inference.robustness import Subject, block_rows
from service.spec import RobustnessSpec
from workers.messages import DRAIN, STOP, Assignment, Checkpointed, Done, Drained, Progress
from workers.training.checkpointing import Record, newest, write_bytes
from workers.training.link import Link

SAVE_S = 1.0
Piece = dict[str, Any]


class Ordered(Exception):
    """The supervisor wants the shard to end now."""


class Siege:
    """A shard's rows, attacked block by block: what is finished goes into checkpoints, and counts when the shard is told to end."""

    def __init__(self, assignment: Assignment, link: Link) -> None:
        self._link = link
        self._spec = RobustnessSpec.model_validate(assignment.spec)
        self._store = assignment.store
        self._scratch = assignment.scratch_key
        saved = newest(assignment.checkpoint, self._load, link.log)
        self.pieces: list[Piece] = saved[1] if saved else []
        self._ground = Ground(assignment, self._spec)
        self._block = block_rows(self._ground.model, self._ground.axes, self._spec.attacks, self._spec.epsilons)
        # A split by groups has only about as many rows as were planned.
        self._first, last = assignment.members
        self._last = min(last, self._ground.count)
        self._written = time.monotonic()

    @property
    def _next(self) -> int:
        return int(self.pieces[-1]["rows"][1]) if self.pieces else self._first

    def run(self) -> Done | Drained:
        """Attack what is left of the shard."""
        try:
            while self._next < self._last:
                self._attack(self._next, min(self._next + self._block, self._last))
        except Ordered as order:
            if str(order) == DRAIN:
                self._save()
                return Drained()
            return Done({"pieces": self.pieces, "ordered": str(order).removeprefix(STOP)})
        return Done({"pieces": self.pieces, "ordered": None})

    def _attack(self, first: int, last: int) -> None:
        subject = self._ground.subject(slice(first, last), self._beat)
        self.pieces.append({**piece(subject, self._spec.attacks, self._spec.epsilons), "rows": [first, last]})
        if last < self._last and time.monotonic() - self._written > SAVE_S:
            self._save()

    def _beat(self) -> None:
        share = (self._next - self._first) / (self._last - self._first)
        self._link.progress(Progress(share, 0, 0, None, "evaluating", None))
        if self._link.order is not None:
            raise Ordered(self._link.order)

    def _save(self) -> None:
        if self.pieces:
            key = f"{self._scratch}/{self._next:06d}.json"
            stored = write_bytes(self._store, key, json.dumps(self.pieces).encode())
            self._link.send(Checkpointed({"rows": self._next, "files": {"pieces": stored}}))
        self._written = time.monotonic()

    def _load(self, record: Record) -> list[Piece]:
        found: list[Piece] = json.loads(self._store.read(record["files"]["pieces"]))
        return found


def attack_rows(assignment: Assignment, link: Link) -> Done | Drained:
    """Every attack at every epsilon on this shard's rows, or on those that were reached when it was told to end."""
    return Siege(assignment, link).run()


class Ground:
    """What a job's attacks are made on: the stored model, and the rows of its part that have a label."""

    def __init__(self, assignment: Assignment, spec: RobustnessSpec) -> None:
        self.model = from_files(lambda name: assignment.store.get(f"models/{spec.model}/{name}"))
        self.axes = spec.axes(self.model)
        self.target = (self.model.spec.targets or ())[0]
        self._material = prepare(self.model.spec, stored(assignment.store, assignment.dataset_id))
        rows = self._material.parts._asdict()[spec.split]
        known = ~self.target.missing(self._material.labels[self.target.name][torch.from_numpy(rows)])
        self._rows = rows[known.numpy()][: spec.rows]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def subject(self, which: slice, beat: Callable[[], None]) -> Subject:
        """Some of the rows under attack; regression labels are in their own unit."""
        rows = self._rows[which]
        x = self._material.rows(rows)[0].float()
        if self.target.says == "classes":
            labels = self._material.labels[self.target.name][torch.from_numpy(rows)]
        else:
            labels = torch.from_numpy(self._material.truth(self.target, rows)).float()
        subject = Subject(self.model, self.axes, x, labels, first=which.start, beat=beat)
        subject.neighbours = self._neighbours()
        return subject

    def _neighbours(self) -> Neighbours | None:
        """The first training rows with a label, to measure distances to; a number has no other class."""
        if self.target.says != "classes":
            return None
        rows = self._material.parts.train[:MOST_ROWS]
        labels = self._material.labels[self.target.name][torch.from_numpy(rows)]
        known = ~self.target.missing(labels)
        return Neighbours(self._material.rows(rows)[0].float()[known], self.target.right(labels[known]))

    def labelled(self, reached: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The numbers of the rows that were reached, from each first to each last, with their labels as the dataset has them."""
        rows, names = np.concatenate([self._rows[first:last] for first, last in reached]), self.model.classes[0]
        if self.target.from_inputs:
            return {"row": rows.tolist(), "label": [None] * len(rows)}
        if names is None:
            values = self._material.originals[self.target.name][rows]
            return {"row": rows.tolist(), "label": (values[:, 0] if values.shape[1] == 1 else values).tolist()}
        labels = self.target.right(self._material.labels[self.target.name][torch.from_numpy(rows)])
        return {"row": rows.tolist(), "label": [names[i] for i in labels.tolist()]}
