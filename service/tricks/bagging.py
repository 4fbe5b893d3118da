"""Members of an ensemble: own seeds, and for bagging own bootstrap samples (Breiman 1996, "Bagging predictors")."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from service.seeds import derive
from service.tricks.choices import Only, refuse
from service.values import ITEMS, Seed, Value


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
    selection: Annotated[str | None, Only(None)] = None
    """How members would be selected after training."""
    vary: Annotated[dict[str, list[float]] | None, Only(None)] = None
    """What would differ from member to member."""

    @model_validator(mode="after")
    def _one_seed_each(self) -> "Ensemble":
        if self.seeds is not None and len(self.seeds) != self.size:
            raise refuse("inconsistent-spec", f"{len(self.seeds)} seeds for {self.size} members", pointer="/seeds")
        return self

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
