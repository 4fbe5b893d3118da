"""Parquet of flat columns, read in batches; the footer is believed in nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.data.limits import Limits
from service.errors import TemperError, TooLarge, invalid

BATCH = 4096


class ParquetFile:
    """A Parquet file as a source of blocks of cells; raises Invalid and TooLarge."""

    typed = True

    def __init__(self, path: Path, limits: Limits) -> None:
        try:
            self.file = pq.ParquetFile(
                path,
                pre_buffer=False,
                memory_map=False,
                arrow_extensions_enabled=False,
                thrift_string_size_limit=limits.thrift_bytes,
                thrift_container_size_limit=limits.thrift_items,
                schema_depth_limit=8,
            )
            self.schema = self.file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _corrupt() from error
        self.limits = limits
        self.names = tuple(self.schema.names)
        if len(self.names) > limits.columns:
            raise TooLarge(f"The file has {len(self.names)} columns; the limit is {limits.columns}.")
        if len(set(self.names)) < len(self.names) or any(not name or "\0" in name for name in self.names):
            raise invalid("/file", "invalid-data", "every column takes a name of its own")
        for field in self.schema:
            if not _readable(field.type):
                raise invalid("/file", "invalid-data", f"column {field.name[:80]!r} has the type {str(field.type)[:80]}, which is not read")

    def blocks(self, chosen: Sequence[int]) -> Iterator[list[pa.Array]]:
        """Batches of rows: float64 for numbers and times (seconds since 1970), text for the rest, null where missing."""
        decoded = 0
        try:
            for batch in self.file.iter_batches(BATCH, columns=[self.names[index] for index in chosen], use_threads=False):
                decoded += batch.nbytes
                if decoded > self.limits.decoded_bytes:
                    raise TooLarge(f"The file decodes to more than {self.limits.decoded_bytes} bytes.", slug="decompressed-too-large")
                yield [_cells(batch.column(self.names[index])) for index in chosen]
        except TemperError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _corrupt() from error


def _corrupt() -> TemperError:
    return invalid("/file", "corrupt-file", "the file cannot be read as Parquet")


def _readable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
    return _is_text(kind) or any(bool(test(kind)) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _cells(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _cells(column.dictionary_decode())
    if _is_text(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_boolean(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return pc.divide(pc.cast(pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64()), pa.float64(), safe=False), 1e6)
    return pc.cast(column, pa.float64(), safe=False)
