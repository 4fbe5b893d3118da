"""The reader of uploads, a short-lived process: a request on standard input, a description or a refusal on standard output."""

import errno
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from service.data import images, npz, parts
from service.data.audit import Auditor
from service.data.columns import DESCRIPTION, PARTS_FILE
from service.data.csv_text import CSVText
from service.data.fields import Description, Field, Format
from service.data.formats import Origin, detect
from service.data.limits import Limits
from service.data.parquet import ParquetFile
from service.data.schema import Schema, read
from service.data.tables import read_table
from service.errors import StorageFull, TemperError, TooLarge, invalid
from service.storage.files import NO_SPACE
from service.values import Value


class Request(Value):
    """What the process is to read, and where its columns go; `declared` is the upload's schema."""

    source: str
    folder: str
    origin: Origin = Origin()
    declared: Any = None
    limits: Limits = Limits()


def parse(request: Request) -> Description:
    """Read the source into columns below the folder, and describe them. Raises TemperError."""
    source, folder = Path(request.source), Path(request.folder)
    kind = detect(source, request.origin)
    return finish(_file(source, kind, folder, read(request.declared), request.limits), folder, request.limits)


def finish(description: Description, folder: Path, limits: Limits) -> Description:
    """The description with its audit, written beside the columns."""
    auditor = Auditor(folder, description.fields, split_column=description.split_column, targets=description.targets)
    kept = np.load(folder / PARTS_FILE, allow_pickle=False) if description.splits else None
    audited = description.model_copy(update={"audit": auditor.audit(kept, most=limits.audited_rows)})
    text = audited.model_dump_json()
    if len(text) > limits.description_bytes:
        raise TooLarge(f"The columns' names and categories take {len(text)} bytes; the limit is {limits.description_bytes}.")
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    return audited


def _file(source: Path, kind: Format, folder: Path, schema: Schema, limits: Limits) -> Description:
    splits: dict[str, int] | None = None
    if kind == "images":
        fields, rows, splits = images.read_archive(source, folder, schema, limits)
        targets = schema.targets or ("label",)
    elif kind == "npz":
        fields, rows = npz.read_arrays(source, folder, schema, limits)
        targets = schema.targets or npz.default_targets(fields)
    else:
        table = CSVText(source, limits) if kind == "csv" else ParquetFile(source, limits)
        schema.check(table.names)
        fields, rows = read_table(table, folder, schema, limits)
        targets = schema.targets or _last(fields, schema)
    _check_targets(fields, targets)
    splits = parts.from_column(folder, fields, schema.split_column) if schema.split_column else splits
    return Description(
        format=kind,
        rows=rows,
        fields=tuple(fields),
        targets=targets,
        guessed=kind in ("csv", "parquet") and not schema.targets,
        splits=splits,
        split_column=schema.split_column,
        missing=schema.missing,
        invariances=schema.invariances,
    )


def _last(fields: list[Field], schema: Schema) -> tuple[str, ...]:
    """A table's last column that may be a target."""
    usable = [field.name for field in fields if field.kind != "ignore" and field.name != schema.split_column]
    return tuple(usable[-1:])


def _check_targets(fields: list[Field], targets: tuple[str, ...]) -> None:
    ignored = {field.name for field in fields if field.kind == "ignore"}
    for place, name in enumerate(targets):
        if name in ignored:
            raise invalid(f"/schema/targets/{place}", "invalid-data", f"{name!r} is empty or has too many distinct values to be a target")


def _confine(limits: Limits) -> None:
    """Bound this process before it looks at a byte that a stranger wrote."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.decoded_bytes, limits.decoded_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def main() -> None:
    """Answer one request."""
    request = Request.model_validate_json(sys.stdin.buffer.read())
    _confine(request.limits)
    try:
        answer: dict[str, Any] = {"description": parse(request).dump()}
    except TemperError as error:
        answer = _refused(error)
    except OSError as error:
        if error.errno == errno.EFBIG:
            answer = _refused(TooLarge("The file's columns are too large.", slug="decompressed-too-large"))
        elif error.errno in NO_SPACE:
            answer = _refused(StorageFull("No space is left for this upload."))
        else:
            raise
    sys.stdout.write(json.dumps(answer))


def _refused(error: TemperError) -> dict[str, Any]:
    return {"refused": type(error).__name__, "slug": error.slug, "detail": error.detail, "flaws": [list(flaw) for flaw in error.flaws]}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # No orderly end: Arrow's threads now and then abort it, and the answer with it.
    os._exit(0)
