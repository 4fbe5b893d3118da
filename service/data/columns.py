"""A dataset's folder: one .npy file per field, its description, and the part of every row."""

from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.data.fields import BOOLEANS, Description, Field
from service.data.staging import SOURCE, dataset_key
from service.storage.files import Store

Values = NDArray[Any]
DESCRIPTION = "description.json"
PARTS_FILE = "parts.npy"


def column_path(folder: Path, index: int) -> Path:
    """Where the values of the field with that index lie."""
    return folder / "columns" / f"{index}.npy"


def stored(store: Store, dataset_id: str) -> "Columns":
    """The columns of a stored dataset, on this machine, for reading at once; the file as it was sent stays where it is."""
    return Columns(store.fetch(dataset_key(dataset_id), without=SOURCE))


class ColumnFile:
    """An .npy file that grows by blocks of rows; `close` puts the number of rows into its header.

    The file is opened for each block only: a table may have more columns than a process may have open files.
    """

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.row_shape, self.rows = path, np.dtype(dtype), row_shape, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            self._write_header(file)

    def append(self, block: Values) -> None:
        """Write a block [n, *row_shape] after the rows so far."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(block, dtype=self.dtype).data)
        self.rows += len(block)

    def close(self) -> Values:
        """Finish the header, and the whole column as a writable memory map."""
        with self.path.open("r+b") as file:
            self._write_header(file)
        values: Values = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        return values

    def _write_header(self, file: BinaryIO) -> None:
        # numpy pads the header so that its length does not depend on the number of rows.
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows, *self.row_shape)}
        np.lib.format.write_array_header_1_0(file, described)


class Columns:
    """A stored dataset, read through memory maps.

    numeric: float64, NaN missing; categorical and boolean: int32 codes into the classes, -1 missing; image: uint8 or float32
    [N, H, W] or [N, H, W, C]; tensor: uint8 or float32 [N, …].
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def description(self) -> Description:
        """What is known of the dataset."""
        return Description.model_validate_json((self.folder / DESCRIPTION).read_bytes())

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.description.rows

    def read(self, name: str) -> Values:
        """All values of a field, memory-mapped, rows first; raises NotFound."""
        field = self.description.field(name)
        return self._load(self.description.fields.index(field))

    def parts(self) -> NDArray[np.int8] | None:
        """0 train, 1 validation, 2 test per row, or None for a dataset without splits."""
        if self.description.splits is None:
            return None
        parts: NDArray[np.int8] = np.load(self.folder / PARTS_FILE, mmap_mode="r", allow_pickle=False)
        return parts

    def rows_page(self, offset: int, limit: int) -> list[dict[str, Any]]:
        """Rows from `offset` as `{"row", "values"}` of JSON types, missing as None; empty past the end."""
        stop = min(offset + limit, self.rows)
        shown = {
            field.name: _shown(field, self._load(index)[offset:stop])
            for index, field in enumerate(self.description.fields)
            if field.kind != "ignore"
        }
        return [{"row": row, "values": {name: values[row - offset] for name, values in shown.items()}} for row in range(offset, stop)]

    def _load(self, index: int) -> Values:
        values: Values = np.load(column_path(self.folder, index), mmap_mode="r", allow_pickle=False)
        return values


def _shown(field: Field, values: Values) -> list[Any]:
    """A block of values as JSON types."""
    if field.kind == "boolean":
        return [None if code < 0 else field.values[code] == BOOLEANS[1] for code in values.tolist()]
    if field.discrete:
        return [None if code < 0 else field.values[code] for code in values.tolist()]
    if values.dtype.kind == "f" and np.isnan(values).any():
        missing = np.isnan(values)
        values = values.astype(object)
        values[missing] = None
    shown: list[Any] = values.tolist()
    return shown
