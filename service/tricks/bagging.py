"""Members of an ensemble: own seeds, and for bagging own bootstrap samples (Breiman 1996, "Bagging predictors")."""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from service.seeds import derive
from service.tricks.choices import AtMost, refuse
from service.tricks.optimization import Rate
from service.tricks.penalty import Alpha
from service.values import ITEMS, DropRate, Seed, Value

MOST_VALUES = 200
"""Values that one thing may take in an ensemble."""


class Vary(Value):
    """What differs from member to member beside seeds and rows: member i takes value i mod n of each list of n."""

    learning_rate: Annotated[tuple[Rate, ...], ITEMS, Field(min_length=1, examples=[[1e-3, 1e-2]]), AtMost(MOST_VALUES)] | None = None
    """Learning rates."""
    dropout: Annotated[tuple[DropRate, ...], ITEMS, Field(min_length=1, examples=[[0.2, 0.5]]), AtMost(MOST_VALUES)] | None = None
    """Rates of dropping hidden units, the same in all layers."""
    alpha: Annotated[tuple[Alpha, ...], ITEMS, Field(min_length=1, examples=[[1e-4, 1e-3]]), AtMost(MOST_VALUES)] | None = None
    """Strengths of the one regularizer that has `alpha`."""

    def lists(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """The names of what differs, with the values."""
        return ((name, values) for name, values in self if values is not None)

    def values(self, member: int) -> dict[str, float]:
        """A member's own values by name."""
        return {name: values[member % len(values)] for name, values in self.lists()}


class Ensemble(Value):
    """k members; without `bootstrap` they differ by initialization and order alone (a deep ensemble)."""

    size: Annotated[int, Field(ge=1)] = 1
    """Members, k."""
    bootstrap: bool = False
    """Whether each member trains on its own sample of the rows, drawn with replacement (bagging)."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the training rows that a member gets."""
    seeds: Annotated[tuple[Seed, ...], ITEMS] | None = None
    """A seed per member; equal seeds make equal members."""
    selection: Literal["greedy"] | None = None
    """How members are chosen and weighed after training, on validation; null: all alike."""
    vary: Vary | None = None
    """What differs from member to member, so that one job is a small sweep."""

    @model_validator(mode="after")
    def _one_seed_each(self) -> "Ensemble":
        if self.seeds is not None and len(self.seeds) != self.size:
            raise refuse("inconsistent-spec", f"{len(self.seeds)} seeds for {self.size} members", pointer="/seeds")
        return self

    def varies(self, *names: str) -> bool:
        """Whether any of these is each member's own."""
        return self.vary is not None and any(name in names for name, _ in self.vary.lists())

    def seed(self, member: int, purpose: str, *, seed: int) -> int:
        """The seed of a member's stream; with `seeds`, equal entries make equal members."""
        if self.seeds is not None:
            return derive(self.seeds[member], 0, purpose)
        return derive(seed, member, purpose)

    def count(self, rows: int) -> int:
        """How many of the training rows each member gets."""
        return max(1, round(self.fraction * rows))

    def rows(self, member: int, train: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
        """The training rows of a member: a share `fraction` of them, drawn with replacement when bootstrapping."""
        count = self.count(len(train))
        if not self.bootstrap and count == len(train):
            return train
        stream = np.random.default_rng(self.seed(member, "bootstrap", seed=seed))
        return np.sort(stream.choice(train, size=count, replace=self.bootstrap))
