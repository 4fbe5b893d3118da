"""Tables, from CSV or Parquet: blocks of cells become columns, each of the kind that is declared or that its cells have."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from service.data.building import NumericColumn, TextColumn
from service.data.cells import numbers
from service.data.columns import column_path
from service.data.fields import Field
from service.data.limits import Limits
from service.data.schema import Schema
from service.errors import TooLarge, invalid

Column = NumericColumn | TextColumn


class Source(Protocol):
    """A file of named columns; its blocks are null where a cell is missing, text or float64 elsewhere."""

    names: tuple[str, ...]
    typed: bool
    """Whether text is text even where it reads like numbers."""

    def blocks(self, chosen: Sequence[int]) -> Iterator[list[pa.Array]]:
        """Blocks of rows: for each chosen column its cells."""
        ...


def read_table(source: Source, folder: Path, schema: Schema, limits: Limits) -> tuple[list[Field], int]:
    """Write the source's columns below the folder; their fields and the number of rows. Raises Invalid and TooLarge."""
    return _Table(source, folder, schema, limits).read()


class _Table:
    def __init__(self, source: Source, folder: Path, schema: Schema, limits: Limits) -> None:
        self.source, self.folder, self.schema, self.limits = source, folder, schema, limits
        self.columns: dict[int, Column] = {}
        self.rows = 0

    def read(self) -> tuple[list[Field], int]:
        chosen = [index for index, name in enumerate(self.source.names) if self.schema.kind(name) != "ignore"]
        if not chosen:
            raise invalid("/schema/fields", "invalid-data", "every field is ignored")
        # Columns that look numeric at first and hold text further down are read once more, as text.
        texts = self._pass(chosen)
        if texts:
            self.rows = 0
            for index in texts:
                self.columns[index] = self._text(index)
            self._pass(texts)
        if self.rows < 2:
            raise invalid("/file", "invalid-data", f"the file has {self.rows} rows of data; it takes at least 2")
        return [self._finish(index, name) for index, name in enumerate(self.source.names)], self.rows

    def _pass(self, chosen: Sequence[int]) -> list[int]:
        """Read the chosen columns once; those that turned out not to be numbers."""
        failed: set[int] = set()
        for block in self.source.blocks(chosen):
            for index, cells in zip(chosen, block, strict=True):
                if index not in failed and not self._column(index, cells).append(cells):
                    failed.add(index)
            self.rows += len(block[0])
            if self.rows > self.limits.rows:
                raise TooLarge(f"The file has more than {self.limits.rows} rows.")
        return sorted(failed)

    def _column(self, index: int, cells: pa.Array) -> Column:
        """The column in the making; its first block tells what it is, where nothing is declared."""
        if index not in self.columns:
            name = self.source.names[index]
            declared = self.schema.kind(name) == "numeric"
            words = pa.types.is_string(cells.type) and (self.source.typed or numbers(cells) is None)
            textual = words or self.schema.kind(name) is not None or name == self.schema.split_column
            if textual and not declared:
                self.columns[index] = self._text(index)
            else:
                self.columns[index] = NumericColumn(name, column_path(self.folder, index), declared=declared)
        return self.columns[index]

    def _text(self, index: int) -> TextColumn:
        name = self.source.names[index]
        kind = "categorical" if name == self.schema.split_column else self.schema.kind(name)
        declared = kind if kind == "categorical" or kind == "boolean" else None
        return TextColumn(name, column_path(self.folder, index), self.limits, declared=declared)

    def _finish(self, index: int, name: str) -> Field:
        column = self.columns.get(index)
        return Field(name=name, kind="ignore") if column is None else column.finish()
