"""What is known about a dataset: its fields, their statistics, its parts and what it declares."""

from typing import Annotated, Any, Literal

from pydantic import Field as Declared

from service.errors import NotFound
from service.values import ITEMS, Value

Kind = Literal["numeric", "categorical", "boolean", "image", "tensor", "ignore"]
Format = Literal["csv", "parquet", "npz", "images", "builtin"]
PARTS = ("train", "validation", "test")
BOOLEANS = ("false", "true")
REACH = 1e38
"""The largest number that a network is given: it computes in float32, and differences have to fit too."""


class Field(Value):
    """One named column: its kind, the shape of one row's value and its statistics over all rows.

    `classes` are (value, count), sorted by value; `mean` and `std` (population) leave missing entries out.
    """

    name: str
    kind: Kind
    shape: Annotated[tuple[int, ...], ITEMS] = ()
    dtype: str = "float64"
    missing: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    classes: Annotated[tuple[Annotated[tuple[str, int], ITEMS], ...], ITEMS] | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The classes' values in the order of their codes."""
        return tuple(value for value, _ in self.classes or ())

    @property
    def discrete(self) -> bool:
        """Whether the column holds codes into `classes`."""
        return self.kind in ("categorical", "boolean")

    @property
    def reachable(self) -> bool:
        """Whether no number is beyond what networks compute with."""
        return self.min is None or self.max is None or max(-self.min, self.max) <= REACH


class Invariances(Value):
    """Transforms under which a row keeps its meaning; null declares nothing."""

    rotation_degrees: Annotated[float, Declared(ge=0, le=180)] | None = None
    translation_pixels: Annotated[float, Declared(ge=0)] | None = None
    horizontal_flip: bool | None = None
    vertical_flip: bool | None = None


class Audit(Value):
    """What looks wrong with the rows: counts of repeated rows, and names of suspicious fields."""

    duplicates: int | None = None
    """Rows equal to an earlier row; null where there are too many rows to tell."""
    duplicates_across_splits: int | None = None
    """Rows outside the training part that equal a row of another part; null without parts."""
    constant: Annotated[tuple[str, ...], ITEMS] = ()
    equal_to_target: Annotated[tuple[str, ...], ITEMS] = ()
    ignored: Annotated[tuple[str, ...], ITEMS] = ()
    """Columns left out because they are empty or have too many distinct values."""


class Description(Value):
    """All that is known of a dataset without reading its rows."""

    format: Format
    rows: int
    fields: Annotated[tuple[Field, ...], ITEMS]
    targets: Annotated[tuple[str, ...], ITEMS] = ()
    """Default targets; empty where a job has to name them."""
    guessed: bool = False
    """Whether the target is only a table's last column, which nobody declared."""
    splits: dict[str, int] | None = None
    split_column: str | None = None
    missing: Literal["nan"] | None = None
    invariances: Invariances | None = None
    audit: Audit = Audit()

    def field(self, name: str) -> Field:
        """The field of that name; raises NotFound."""
        for field in self.fields:
            if field.name == name:
                return field
        raise NotFound(f"The dataset has no field {name!r}.")

    def inputs(self, targets: tuple[str, ...]) -> tuple[Field, ...]:
        """The fields a network sees, in file order: `x` of an NPZ, else all but targets, split column and ignored ones."""
        if self.format == "npz":
            return (self.field("x"),)
        hidden = {*targets, self.split_column}
        return tuple(field for field in self.fields if field.name not in hidden and field.kind != "ignore")

    def public(self) -> dict[str, Any]:
        """The description as callers see it: classes as objects, undeclared invariances left out."""
        shown = self.dump()
        for field in shown["fields"]:
            if field["classes"] is not None:
                field["classes"] = [{"value": value, "count": count} for value, count in field["classes"]]
        if self.invariances is not None:
            shown["invariances"] = self.invariances.model_dump(mode="json", exclude_none=True)
        return shown
