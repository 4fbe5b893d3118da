"""What looks wrong with a dataset: repeated rows, rows in two parts, constant fields, fields that give the target away."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.data.columns import Values, column_path
from service.data.fields import PARTS, Audit, Field
from service.data.measures import BLOCK

MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd


class Auditor:
    """The columns of one dataset, looked at once."""

    def __init__(self, folder: Path, fields: Sequence[Field], *, split_column: str | None, targets: Sequence[str]) -> None:
        self.fields = {index: field for index, field in enumerate(fields) if field.kind != "ignore" and field.name != split_column}
        self.ignored = tuple(field.name for field in fields if field.kind == "ignore")
        self.folder, self.targets = folder, targets

    def audit(self, parts: NDArray[np.int8] | None, *, most: int) -> Audit:
        """The findings; repeated rows are not counted in datasets of more than `most` rows."""
        rows = len(self._column(next(iter(self.fields))))
        repeated, leaked = _repeated(self._row_hashes(rows), parts) if rows <= most else (None, None)
        constant = tuple(field.name for field in self.fields.values() if _constant(field, rows))
        twins = self._twins(constant)
        return Audit(duplicates=repeated, duplicates_across_splits=leaked, constant=constant, equal_to_target=twins, ignored=self.ignored)

    def _column(self, index: int) -> Values:
        values: Values = np.load(column_path(self.folder, index), mmap_mode="r", allow_pickle=False)
        return values

    def _twins(self, constant: Sequence[str]) -> tuple[str, ...]:
        """Fields that hold a target's very values in every row, or its classes under other names."""
        digests = {field.name: self._digest(index) for index, field in self.fields.items()}
        known = {digests[target] for target in self.targets if target in digests and target not in constant}
        return tuple(name for name, digest in digests.items() if digest in known and name not in self.targets)

    def _digest(self, index: int) -> bytes:
        with column_path(self.folder, index).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def _row_hashes(self, rows: int) -> NDArray[np.uint64]:
        """A 64-bit hash of every row's stored bytes: a sum of mixed words times random odd factors."""
        stream = np.random.default_rng(0)
        hashes = np.zeros(rows, dtype=np.uint64)
        for index in self.fields:
            column = self._column(index)
            width = column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=np.int64))
            words = -(-width // 4)
            factors = stream.integers(0, 2**64, size=words, dtype=np.uint64) | np.uint64(1)
            step = max(1, BLOCK // words)
            for start in range(0, rows, step):
                block = np.ascontiguousarray(column[start : start + step])
                raw = np.pad(block.view(np.uint8).reshape(len(block), width), ((0, 0), (0, words * 4 - width)))
                mixed = (raw.view(np.uint32).astype(np.uint64) + np.uint64(1)) * MIX
                mixed ^= mixed >> np.uint64(29)  # else the many zero bits of round floats would weaken the sum
                hashes[start : start + step] += mixed @ factors
        return hashes


def _repeated(hashes: NDArray[np.uint64], parts: NDArray[np.int8] | None) -> tuple[int, int | None]:
    """Rows equal to an earlier one; rows outside the training part that another part has too (None without parts)."""
    if parts is None:
        return len(hashes) - len(np.unique(hashes)), None
    distinct, places = np.unique(hashes, return_inverse=True)
    held = np.zeros((len(PARTS), len(distinct)), dtype=bool)
    for part in range(len(PARTS)):
        held[part, places[parts == part]] = True
    leaked = (held.sum(axis=0) > 1)[places] & (parts > 0)
    return len(hashes) - len(distinct), int(leaked.sum())


def _constant(field: Field, rows: int) -> bool:
    if field.classes is not None:
        return field.missing == 0 and sum(count == rows for _, count in field.classes) == 1
    return field.missing == 0 and field.min is not None and field.min == field.max
