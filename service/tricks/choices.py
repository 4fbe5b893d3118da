"""What every trick's fields share: errors with our codes and the choices that this release leaves out."""

import fnmatch
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function, no_info_before_validator_function


def refuse(code: str, message: str, **context: Any) -> PydanticCustomError:
    """The error a validator raises; `code` becomes the flaw's code and, where errors agree, the problem's slug."""
    # pydantic-core reads braces in a template as placeholders.
    return PydanticCustomError(code, "{message}", {"message": message, **context})


class Only:
    """A field of the contract of which this release has these values alone; the schema shows no others."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def _check(self, value: Any) -> Any:
        if value not in self.values:
            raise refuse("unknown-choice", f"this release has only {', '.join(map(json.dumps, self.values))}")
        return value


class AtMost:
    """A list whose length is judged before its items are looked at."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "maxItems": self.most}

    def _check(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > self.most:
            raise refuse("value-out-of-range", f"{len(value)} items; there may be at most {self.most}")
        return value


def tagged(tag: str, *kinds: str) -> BeforeValidator:
    """A union with one member so far: another kind is refused by name before any of its fields is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and tag not in value:
            raise refuse("missing-field", f"{tag} is required: {', '.join(kinds)}", pointer=f"/{tag}")
        if isinstance(value, dict) and value[tag] not in kinds:
            raise refuse("unknown-choice", f"this release has {', '.join(kinds)}", pointer=f"/{tag}")
        return value

    return BeforeValidator(check)


def matching(patterns: Sequence[str] | None, names: Sequence[str], *, spare_heads: bool = False) -> list[str]:
    """The layers that shell patterns name, in the network's order; None means all (or all but the heads)."""
    if patterns is None:
        return [name for name in names if not (spare_heads and name.startswith("head."))]
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
