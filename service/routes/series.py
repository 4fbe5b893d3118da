"""A job's series as columns, thinned for plots, as JSON or CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import groupby

from service.routes.answers import SeriesAnswer
from service.storage.metrics import Metric

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def thinned(rows: Sequence[Metric], most: int) -> list[Metric]:
    """At most about `most` points of each series: the first, the last, and of each stretch its minimum and its maximum."""
    kept: list[Metric] = []
    for _, series in groupby(rows, key=lambda row: (row.name, row.member)):
        kept.extend(_thin(list(series), most))
    return kept


def _thin(series: list[Metric], most: int) -> list[Metric]:
    if len(series) <= most:
        return series
    stretches = max(1, (most - 2) // 2)
    inner = len(series) - 2
    kept = {0, len(series) - 1}
    for stretch in range(stretches):
        places = range(1 + stretch * inner // stretches, 1 + (stretch + 1) * inner // stretches)
        finite = [place for place in places if series[place].value is not None]
        if finite:
            kept |= {min(finite, key=lambda place: series[place].value or 0.0), max(finite, key=lambda place: series[place].value or 0.0)}
    return [series[place] for place in sorted(kept)]


def columns(rows: Sequence[Metric]) -> SeriesAnswer:
    """The rows as columns."""
    return SeriesAnswer(
        epoch=[row.epoch for row in rows],
        member=[row.member for row in rows],
        name=[row.name for row in rows],
        value=[row.value for row in rows],
    )


def table(rows: Sequence[Metric]) -> Iterator[str]:
    """The rows as CSV, some thousand lines at a time; a missing value is empty."""
    yield "epoch,member,name,value\r\n"
    for start in range(0, len(rows), 4096):
        text = io.StringIO()
        writer = csv.writer(text)
        for row in rows[start : start + 4096]:
            # A spreadsheet takes a cell that starts like this for a formula.
            name = "'" + row.name if row.name.startswith(FORMULA) else row.name
            writer.writerow([row.epoch, row.member, name, "" if row.value is None else repr(row.value)])
        yield text.getvalue()
