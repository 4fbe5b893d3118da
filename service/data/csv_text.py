"""CSV: UTF-8, commas, double quotes, a line of names first; read in blocks, every cell as text."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from service.data.cells import known
from service.data.limits import Limits
from service.errors import TooLarge, UnsupportedMediaType, invalid

CHUNK = 1 << 22


class CSVText:
    """A CSV file as a source of blocks of cells; raises Invalid, TooLarge and UnsupportedMediaType."""

    typed = False

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self._refuse_binary()
        self._raw_names = self._header()
        self.names = tuple(name.strip() for name in self._raw_names)

    def blocks(self, chosen: Sequence[int]) -> Iterator[list[pa.Array]]:
        """Blocks of rows: for each chosen column its cells as text, null where missing."""
        names = [self._raw_names[index] for index in chosen]
        wrong: list[Any] = []

        def refuse(row: Any) -> str:
            if not wrong:
                wrong.append(row)
            return "skip"  # and the rest is read to its end: Arrow's way out of an error now and then aborts the process

        try:
            reader = pa.csv.open_csv(
                self.path,
                # Without threads, so that a bad row has its number.
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=self.limits.line_bytes),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names),
            )
            for batch in reader:
                if not wrong:
                    yield [known(cells) for cells in batch.columns]
        except pa.ArrowInvalid as error:
            raise (_ragged(wrong[0]) if wrong else self._translated(error)) from error
        if wrong:
            raise _ragged(wrong[0])

    def _translated(self, error: pa.ArrowInvalid) -> Exception:
        if "UTF8" in str(error):
            return UnsupportedMediaType("The file is not UTF-8.")
        if "straddling" in str(error):
            return TooLarge(f"A row is longer than {self.limits.line_bytes} bytes.", slug="payload-too-large")
        return invalid("/file", "corrupt-file", "the file cannot be read as CSV")

    def _refuse_binary(self) -> None:
        quotes = 0
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                quotes += chunk.count(b'"')
                if b"\0" in chunk:
                    raise UnsupportedMediaType("The file is neither text nor of another format that is read here.")
        if quotes % 2:
            self._refuse_open_quote()

    def _refuse_open_quote(self) -> None:
        """A quote that is never closed would make one cell of all that follows; one within a cell (`5"`) is no harm."""
        csv.field_size_limit(self.limits.line_bytes)
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                for _ in csv.reader(file, strict=True):
                    pass
        except UnicodeDecodeError as error:
            raise UnsupportedMediaType("The file is not UTF-8.") from error
        except csv.Error as error:
            raise invalid("/file", "corrupt-file", "a quote is opened and never closed, or closed within a cell") from error

    def _header(self) -> tuple[str, ...]:
        """The names in the first line; raises Invalid where they are missing, empty or not distinct."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                names = tuple(next(csv.reader(iter(lambda: file.readline(self.limits.line_bytes), ""), strict=True), ()))
        except UnicodeDecodeError as error:
            raise UnsupportedMediaType("The file is not UTF-8.") from error
        except csv.Error as error:
            raise invalid("/file", "corrupt-file", "the first line cannot be read as CSV") from error
        stripped = [name.strip() for name in names]
        if not names:
            raise invalid("/file", "invalid-data", "the file is empty")
        if len(names) > self.limits.columns:
            raise TooLarge(f"The file has {len(names)} columns; the limit is {self.limits.columns}.")
        if "" in stripped:
            raise invalid("/file", "invalid-data", f"column {stripped.index('')} has no name")
        if len(set(stripped)) < len(stripped):
            twice = next(name for name in stripped if stripped.count(name) > 1)
            raise invalid("/file", "invalid-data", f"two columns have the name {twice[:80]!r}")
        return names


def _ragged(row: Any) -> Exception:
    where = f"row {row.number - 2}" if row.number is not None else "a row"
    return invalid("/file", "ragged", f"{where} has {row.actual_columns} cells, the first line {row.expected_columns}")
