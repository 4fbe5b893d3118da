"""What the owner of a dataset says about it: kinds of fields, targets, parts and invariances."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field as Declared
from pydantic import ValidationError

from service.data.fields import Invariances
from service.errors import Flaw, Invalid
from service.flaws import flaws_of, pointer
from service.values import ITEMS, Value

DeclaredKind = Literal["numeric", "categorical", "boolean", "ignore"]


class FieldSchema(Value):
    """The kind that a field is to have, whatever its cells look like."""

    kind: DeclaredKind


class Schema(Value):
    """The upload's `schema` part."""

    fields: dict[str, FieldSchema] = Declared(default_factory=dict)
    targets: Annotated[tuple[str, ...], ITEMS] = ()
    split_column: str | None = None
    missing: Literal["nan"] | None = None
    invariances: Invariances | None = None

    def kind(self, name: str) -> DeclaredKind | None:
        """The declared kind of a field, or None."""
        declared = self.fields.get(name)
        return declared.kind if declared else None

    def check(self, names: Sequence[str]) -> None:
        """Raises Invalid where the schema names a field that the file does not have, or twice the same target."""
        flaws = list(self._strangers(names))
        if len(set(self.targets)) < len(self.targets):
            flaws.append(Flaw("/schema/targets", "invalid-data", "a target is named twice"))
        if self.split_column is not None and self.split_column in self.targets:
            flaws.append(Flaw("/schema/split_column", "invalid-data", "the split column cannot be a target"))
        flaws.extend(
            Flaw(pointer("schema", "targets", place), "invalid-data", f"the target {name!r} is declared to be ignored")
            for place, name in enumerate(self.targets)
            if self.kind(name) == "ignore"
        )
        if flaws:
            raise Invalid(flaws)

    def _strangers(self, names: Sequence[str]) -> Iterable[Flaw]:
        places = [(name, pointer("schema", "fields", name)) for name in self.fields]
        places += [(name, pointer("schema", "targets", place)) for place, name in enumerate(self.targets)]
        places += [(self.split_column, "/schema/split_column")] if self.split_column is not None else []
        for name, where in places:
            if name not in names:
                yield Flaw(where, "invalid-data", f"the file has no field {name!r}")


def read(raw: Any) -> Schema:
    """The schema in `raw` (null is the empty one); raises Invalid with pointers below `/schema`."""
    if raw is None:
        return Schema()
    try:
        return Schema.model_validate(raw)
    except ValidationError as error:
        raise Invalid(flaws_of(error, raw, "/schema", model=Schema)) from error
