"""What every trick's fields share: errors with our codes and the choices that this release leaves out."""

from typing import Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError


def refuse(code: str, message: str, **context: Any) -> PydanticCustomError:
    """The error a validator raises; `code` becomes the flaw's code and, where errors agree, the problem's slug."""
    # pydantic-core reads braces in a template as placeholders.
    return PydanticCustomError(code, "{message}", {"message": message, **context})


def only(*values: Any) -> AfterValidator:
    """A field of the contract of which this release has these values alone."""

    def check(value: Any) -> Any:
        if value not in values:
            raise refuse("unknown-choice", f"this release has only {', '.join(map(repr, values))}")
        return value

    return AfterValidator(check)


def tagged(tag: str, *kinds: str) -> BeforeValidator:
    """A union with one member so far: another kind is refused by name before any of its fields is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and tag not in value:
            raise refuse("missing-field", f"{tag} is required: {', '.join(kinds)}", pointer=f"/{tag}")
        if isinstance(value, dict) and value[tag] not in kinds:
            raise refuse("unknown-choice", f"this release has {', '.join(kinds)}", pointer=f"/{tag}")
        return value

    return BeforeValidator(check)
