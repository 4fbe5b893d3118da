"""Small frozen values that everything else is made of."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict

NAME = re.compile(r"(?!ds_|job_|mdl_|key_)[a-z0-9][a-z0-9._-]{0,63}")


class Value(BaseModel):
    """A frozen, strictly read piece of a spec: unknown fields, coercions and non-finite numbers are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def dump(self) -> dict[str, Any]:
        """The value as JSON types."""
        return self.model_dump(mode="json")


# JSON has lists only, and a strict tuple refuses them: `Annotated[tuple[X, ...], ITEMS]`.
ITEMS = Strict(False)
DropRate = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
