"""Columns in the making: blocks of cells go in, an .npy file and a field with its statistics come out."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.data.cells import first_non_number, in_order, numbers
from service.data.columns import ColumnFile, Values
from service.data.fields import BOOLEANS, Field, Kind
from service.data.limits import Limits
from service.data.measures import BLOCK, at, refuse_infinite, statistics
from service.errors import invalid
from service.flaws import cut, pointer

TRUTHS = {"false": 0, "true": 1, "0": 0, "1": 1}


class NumericColumn:
    """A column of numbers, float64 with NaN for missing."""

    def __init__(self, name: str, path: Path, *, declared: bool) -> None:
        self.name, self.declared = name, declared
        self.file = ColumnFile(path, np.float64)

    def append(self, cells: pa.Array) -> bool:
        """Add a block, or return False where a cell is no number; raises Invalid if the kind was declared, or for infinities."""
        block = numbers(cells)
        if block is None:
            if self.declared:
                place = first_non_number(cells)
                row = self.file.rows + place
                shown = cut(repr(cells[place].as_py()), 40)
                raise invalid(at(row, self.name), "invalid-data", f"row {row}, column {self.name!r}: {shown} is not a number")
            return False
        refuse_infinite(block, self.file.rows, self.name)
        self.file.append(block)
        return True

    def finish(self) -> Field:
        """The field; one without any number is ignored unless its kind was declared."""
        values = self.file.close()
        missing = int(np.isnan(values).sum())
        if missing == len(values) and not self.declared:
            return Field(name=self.name, kind="ignore", missing=missing)
        return Field(name=self.name, kind="numeric", missing=missing).model_copy(update=statistics(values))


class TextColumn:
    """A column of texts, int32 codes into its sorted classes with -1 for missing."""

    def __init__(self, name: str, path: Path, limits: Limits, *, declared: Literal["categorical", "boolean"] | None) -> None:
        self.name, self.declared, self.limits = name, declared, limits
        self.file = ColumnFile(path, np.int32)
        self.codes: dict[str, int] = {}
        self._wordy = False

    def _overflown(self) -> bool:
        """Whether there are more distinct values, or longer ones, than a categorical column may have."""
        return self._wordy or len(self.codes) > self.limits.classes

    def append(self, cells: pa.Array) -> bool:
        """Add a block; raises Invalid where a declared categorical column has too many values."""
        if self._overflown():
            return True
        encoded = pc.dictionary_encode(cells)
        texts = encoded.dictionary.to_pylist()
        if any("\0" in text for text in texts):  # which neither JSON nor PostgreSQL can keep
            raise invalid(pointer("file", self.name), "invalid-data", f"column {self.name!r} holds the character NUL")
        self._wordy = max(map(len, texts), default=0) > self.limits.cell_characters
        fresh = [] if self._wordy else [self.codes.setdefault(text, len(self.codes)) for text in texts]
        if self._overflown():
            if self.declared:
                where, most = pointer("schema", "fields", self.name), self.limits
                message = f"{self.name!r} has more than {most.classes} distinct values, or one of over {most.cell_characters} characters"
                raise invalid(where, "invalid-data", message)
            return True
        places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        # The entry after the last serves -1, which indexes from the end.
        self.file.append(np.array([*fresh, -1], dtype=np.int32)[places])
        return True

    def finish(self) -> Field:
        """The field: boolean where all values are true or false, ignored where it has no or too many distinct ones."""
        values = self.file.close()
        if self._overflown() or not (self.codes or self.declared):
            return Field(name=self.name, kind="ignore")
        classes = list(self.codes)
        kind: Kind = "categorical"
        truths = [TRUTHS.get(text.lower()) for text in classes]
        if self.declared == "boolean" and None in truths:
            wrong = cut(repr(classes[truths.index(None)]), 40)
            raise invalid(pointer("schema", "fields", self.name), "invalid-data", f"{wrong} in {self.name!r} is not true or false")
        if self.declared == "boolean" or (self.declared is None and {text.lower() for text in classes} <= set(BOOLEANS)):
            kind, places, names = "boolean", [truth or 0 for truth in truths], list(BOOLEANS)
        else:
            order = in_order(classes)
            places, names = np.argsort(order).tolist(), [classes[code] for code in order]
        counts, missing = _recode(values, np.array([*places, -1], dtype=np.int32), len(names))
        return Field(name=self.name, kind=kind, dtype="int32", missing=missing, classes=tuple(zip(names, counts, strict=True)))


def _recode(values: Values, places: NDArray[np.int32], classes: int) -> tuple[list[int], int]:
    """Replace codes in place, block by block; the count of each class, and of missing rows."""
    counts = np.zeros(classes + 1, dtype=np.int64)
    for start in range(0, len(values), BLOCK):
        block = places[values[start : start + BLOCK]]
        values[start : start + BLOCK] = block
        counts += np.bincount(block + 1, minlength=classes + 1)
    return counts[1:].tolist(), int(counts[0])
