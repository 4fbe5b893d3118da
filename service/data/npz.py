"""From the arrays of an NPZ to columns: `x` an image or a tensor, whole numbers and text of rank 1 classes, all else numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from service.data.arrays import Archive, Header
from service.data.building import NumericColumn, TextColumn
from service.data.cells import known
from service.data.columns import ColumnFile, Values, column_path
from service.data.fields import Field, Kind
from service.data.limits import Limits
from service.data.measures import refuse_infinite, statistics
from service.data.schema import Schema
from service.errors import invalid
from service.flaws import pointer

INPUT = "x"
CHANNELS = 4


def read_arrays(path: Path, folder: Path, schema: Schema, limits: Limits) -> tuple[list[Field], int]:
    """Write the arrays of an NPZ below the folder; their fields, `x` first, and the number of rows. Raises Invalid and TooLarge."""
    archive = Archive(path, limits)
    rows = _rows(archive.headers)
    schema.check(tuple(archive.headers))
    names = [INPUT, *(name for name in archive.headers if name != INPUT)]
    reader = _Reader(archive, folder, schema, limits)
    return [reader.field(index, name) for index, name in enumerate(names)], rows


def default_targets(fields: Sequence[Field]) -> tuple[str, ...]:
    """`y`, else the only other array, else none: then a job has to name its targets."""
    others = tuple(field.name for field in fields if field.name != INPUT and field.kind != "ignore")
    return ("y",) if "y" in others else others if len(others) == 1 else ()


def _rows(headers: dict[str, Header]) -> int:
    """The rows that all arrays have; raises Invalid where `x` is missing, lengths differ or text has no place."""
    if INPUT not in headers:
        raise invalid("/file", "invalid-data", "the archive has no array 'x'")
    for name, header in headers.items():
        if header.dtype.kind == "U" and (name == INPUT or len(header.shape) > 1):
            message = f"{name[:80]!r} has the type {header.dtype}; text is read in arrays of rank 1 beside 'x'"
            raise invalid(pointer("file", name), "invalid-data", message)
    shape = headers[INPUT].shape
    if len(shape) < 2 or 0 in shape:
        raise invalid(pointer("file", INPUT), "invalid-data", f"'x' has the shape {list(shape)}; it takes rows of at least one number")
    if shape[0] < 2:
        raise invalid(pointer("file", INPUT), "invalid-data", "'x' has one row; it takes at least 2")
    for name, header in headers.items():
        if not header.shape or header.shape[0] != shape[0]:
            length = header.shape[0] if header.shape else "no"
            raise invalid(pointer("file", name), "invalid-data", f"{name[:80]!r} has {length} rows, 'x' has {shape[0]}")
    return shape[0]


class _Reader:
    def __init__(self, archive: Archive, folder: Path, schema: Schema, limits: Limits) -> None:
        self.archive, self.folder, self.schema, self.limits = archive, folder, schema, limits

    def field(self, index: int, name: str) -> Field:
        """Write one array; its field."""
        header, path = self.archive.headers[name], column_path(self.folder, index)
        declared = self.schema.kind(name)
        if declared == "ignore" and name != INPUT:
            return Field(name=name, kind="ignore", shape=header.shape[1:])
        if name == INPUT or len(header.shape) > 1:
            return self._array(name, header, path)
        if declared == "numeric" or (header.dtype.kind == "f" and declared is None and name != self.schema.split_column):
            return self._numeric(name, path)
        field = self._discrete(name, path)
        return self._numeric(name, path) if field.kind == "ignore" and header.dtype.kind != "U" else field

    def _array(self, name: str, header: Header, path: Path) -> Field:
        dtype = np.dtype(np.uint8 if header.dtype == np.uint8 else np.float32)
        file = ColumnFile(path, dtype, header.shape[1:])
        missing = 0
        for block in self.archive.blocks(name):
            values = self._checked(block, file.rows, name)
            missing += int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum()) if dtype.kind == "f" else 0
            file.append(values.astype(dtype))
        kind: Kind = "image" if name == INPUT and _is_image(header) else "tensor"
        field = Field(name=name, kind=kind, shape=header.shape[1:], dtype=dtype.name, missing=missing)
        return field.model_copy(update=statistics(file.close()))

    def _checked(self, block: Values, first_row: int, name: str) -> Values:
        """The block; raises Invalid for infinities, and for NaN in `x` unless the schema says that it means missing."""
        if block.dtype.kind != "f":
            return block
        with np.errstate(over="ignore"):
            refuse_infinite(block.astype(np.float32), first_row, name)
        if name == INPUT and self.schema.missing != "nan":
            wrong = np.flatnonzero(np.isnan(block).reshape(len(block), -1).any(axis=1))
            if len(wrong):
                row = first_row + int(wrong[0])
                message = f"'x' has NaN, first in row {row}; `missing: nan` in the schema lets it mean missing"
                raise invalid(pointer("file", name, row), "non-finite", message)
        return block

    def _numeric(self, name: str, path: Path) -> Field:
        column = NumericColumn(name, path, declared=True)
        for block in self.archive.blocks(name):
            text = block.dtype.kind == "U"
            column.append(_words(block, name) if text else pa.array(block.astype(np.float64), from_pandas=True))
        return column.finish()

    def _discrete(self, name: str, path: Path) -> Field:
        """Classes named as the numbers are written; a field to be ignored where there are too many to be classes."""
        kind = "boolean" if self.archive.headers[name].dtype.kind == "b" else self.schema.kind(name)
        declared = kind if kind == "categorical" or kind == "boolean" else None
        column = TextColumn(name, path, self.limits, declared=declared)
        for block in self.archive.blocks(name):
            column.append(_words(block, name) if block.dtype.kind == "U" else _texts(block))
        return column.finish()


def _texts(block: Values) -> pa.Array:
    """Numbers as a class is written, without a fraction where there is none; NaN is null."""
    if block.dtype.kind == "b":
        return pa.array(np.where(block, "true", "false"))
    values, places = np.unique(block, return_inverse=True)
    texts = [None if value != value else str(int(value)) if float(value).is_integer() else repr(float(value)) for value in values]
    return pa.array(texts, pa.string()).take(pa.array(places))


def _words(block: Values, name: str) -> pa.Array:
    """Texts as cells of a table are read; raises Invalid for what no text is."""
    try:
        return known(pa.array(block.tolist(), pa.string()))
    except (ValueError, SystemError) as error:
        raise invalid(pointer("file", name), "invalid-data", f"the array {name[:80]!r} holds characters that are none") from error


def _is_image(header: Header) -> bool:
    """[N, H, W, C] of at most 4 channels; [N, H, W] of uint8, or square: other arrays of that rank are sequences [N, T, F]."""
    sides = header.shape[1:]
    if len(sides) == 3:
        return sides[2] <= CHANNELS
    return len(sides) == 2 and (header.dtype == np.uint8 or sides[0] == sides[1])
