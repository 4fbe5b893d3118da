"""What commands print: data on standard output as a table, JSON, CSV or ids; talk on standard error."""

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How data is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    ids = "ids"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the data.")]
Row = Mapping[str, Any]


def show(rows: Sequence[Row], columns: Sequence[str], form: Format) -> None:
    """Prints rows: all they hold as JSON, the columns named as a table or CSV, `id` alone as ids."""
    if form is Format.json:
        print(json.dumps(list(rows), indent=2, ensure_ascii=False))
    elif form is Format.ids:
        print(*(row["id"] for row in rows), sep="\n", end="\n" if rows else "")
    elif form is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_safe(_cell(row.get(column))) for column in columns] for row in rows)
    else:
        _table(rows, columns)


def talk(text: str) -> None:
    """Tells people something, beside the data."""
    print(text, file=sys.stderr, flush=True)


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    cells = [[column.replace("_", " ") for column in columns], *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    head, *body = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)
    print(f"\033[1m{head}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else head)
    for line in body:
        print(line)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _safe(cell: str) -> str:
    """A cell that a spreadsheet does not take for a formula; negative numbers stay numbers."""
    formula = cell[:1] in {"=", "+", "-", "@", "\t", "\r"} and not cell[1:].replace(".", "", 1).replace("e-", "", 1).isdecimal()
    return f"'{cell}" if formula else cell
