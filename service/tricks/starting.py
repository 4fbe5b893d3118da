"""A stored model to start from: fine-tuning, with layers that stay as they were."""

from typing import Annotated

from pydantic import Field

from service.tricks.choices import AtMost
from service.values import ITEMS, Value


class Init(Value):
    """Layers begin with the weights of a stored model; member i takes those of its member i mod its size."""

    model: Annotated[str, Field(examples=["digits:3"])]
    """Id, name, name:version or name@alias."""
    layers: Annotated[tuple[str, ...], ITEMS, AtMost(256)] | None = None
    """Names of layers or shell patterns that are taken over; null: all."""
    freeze: Annotated[tuple[str, ...], ITEMS, AtMost(256)] = ()
    """Of these, the ones that do not learn."""
