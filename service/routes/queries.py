"""Query parameters that several lists share; an unknown one is refused like an unknown field."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.errors import invalid

MADE_HERE: dict[str, Any] = {"anyOf": [{"type": "string", "pattern": "^[A-Za-z0-9_-]{2,500}$"}, {"type": "null"}]}
PAIRS: dict[str, Any] = {"items": {"type": "string", "maxLength": 500, "pattern": r"^[^:\x00]+:[^\x00]*$"}}
Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]


class Parameters(BaseModel):
    """The query of one route."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ListParameters(Parameters):
    """Which page of a list, and what its items must have."""

    limit: Annotated[int, Field(ge=1, le=200, description="Most items of one page.")] = 50
    cursor: Annotated[Text | None, Field(description="`next_cursor` of the page before.", json_schema_extra=MADE_HERE)] = None
    name: Text | None = None
    label: Annotated[
        list[Text], Field(max_length=32, description="`key:value`, once per label.", json_schema_extra=PAIRS)
    ] = []  # pydantic copies defaults

    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels that items must have, as pairs; raises Invalid."""
        pairs = []
        for text in self.label:
            key, colon, value = text.partition(":")
            if not key or not colon:
                raise invalid("/query/label", "invalid-label", "a label is written as key:value")
            pairs.append((key, value))
        return tuple(pairs)
