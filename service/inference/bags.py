"""The rows that each member of a bagged model trained on, and what the members that never saw a row say of it.

Breiman 1996, "Out-of-bag estimation".
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from service.inference.measuring import Inquiry
from service.inference.pools import Answer, Classes
from service.spec import TrainSpec
from service.tricks.modes import Asking

FILE = "bagging.safetensors"
"""Of a model whose members have rows of their own: those rows, and the out-of-bag answers."""
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


def bags(spec: TrainSpec, train: Rows, members: Sequence[int]) -> dict[int, Rows]:
    """The training rows of each member, by its number in the job; none where every member has all of them."""
    ensemble = spec.ensemble
    if not ensemble.bootstrap and ensemble.count(len(train)) == len(train):
        return {}
    return {member: ensemble.rows(member, train, seed=spec.seed) for member in members}


class OutOfBag(NamedTuple):
    """Which training rows [N] each of K members did not see, [K, N]."""

    train: Rows
    unseen: NDArray[np.bool_]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Training rows [N] that at least one member did not see."""
        return np.asarray(self.unseen.any(axis=0))

    def mean(self, values: Floats) -> Floats:
        """The average of members' values [K, N, ..] over those that did not see the row, of the rows [M, ..] that are covered."""
        out = self.unseen[:, self.covered].astype(np.float64)
        return np.asarray(np.einsum("km,km...->m...", out / out.sum(axis=0), values[:, self.covered]))


def out_of_bag(spec: TrainSpec, train: Rows, members: Sequence[int]) -> OutOfBag | None:
    """Who did not see what; None without bootstrap."""
    if not spec.ensemble.bootstrap:
        return None
    return OutOfBag(train, np.stack([~np.isin(train, rows) for rows in bags(spec, train, members).values()]))


def tensors(inquiry: Inquiry, members: Sequence[int]) -> dict[str, Tensor]:
    """The content of the file: `members.<number>.rows`, and under bootstrap `out_of_bag.*`, one entry for each covered training row.

    Rows are the dataset's row numbers. `out_of_bag.rows` [M], `out_of_bag.members` [M] (how many did not see it), and for each
    target, by its place, `out_of_bag.answers.<i>` [M, C] (mean probabilities) or [M, D] (means in the target's unit).
    """
    spec, train = inquiry.model.spec, inquiry.parts["train"]
    again = inquiry.parts["validation"] if spec.trains_on_validation else train[:0]  # in a second phase, whatever a member had in its first
    found = {
        f"members.{member}.rows": torch.from_numpy(np.concatenate([rows, again]).astype(np.int64))
        for member, rows in bags(spec, train, members).items()
    }
    bag = out_of_bag(spec, train, members)
    if bag is None or not bag.covered.any():
        return found
    answers = inquiry.answers("train", Asking(members="all", weights="equal").axes(inquiry.model))
    found["out_of_bag.rows"] = torch.from_numpy(train[bag.covered])
    found["out_of_bag.members"] = torch.from_numpy(bag.unseen[:, bag.covered].sum(axis=0))
    for i, target in enumerate(inquiry.targets):
        said = bag.mean(each_member(answers[target.name]))
        found[f"out_of_bag.answers.{i}"] = torch.from_numpy(said.astype(np.float32))
    return found


def each_member(answer: Answer) -> Floats:
    """What every member said [K, N, ..]: probabilities, or means in the target's unit; one member's answer is its own."""
    if isinstance(answer, Classes):
        kept = answer.members
        return (kept if kept is not None else answer.probabilities[None]).double().numpy()
    means = answer.members.mean if answer.members is not None else None
    return (means if means is not None else answer.mean[None]).double().numpy()


def rows_of(content: bytes) -> Mapping[int, Rows]:
    """The rows of each member, by its number in the job, read back from the bytes of the file."""
    stored = {name: tensor.numpy() for name, tensor in load(content).items() if name.startswith("members.")}
    return {number: stored[f"members.{number}.rows"] for number in sorted(int(name.split(".")[1]) for name in stored)}
