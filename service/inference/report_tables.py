"""Tables of metrics, as several parts of the report's page have them."""

from collections.abc import Mapping
from typing import Any

from service.catalog import kinds, tag_of
from service.inference.report_markup import Html, table
from service.tricks.multitask import Head, Target

Found = Mapping[str, Any]
COLUMNS = {tag_of(kind)[1]: kind.shown for kind in kinds(Target) if issubclass(kind, Head)}
"""The metrics that tables show, by task."""


def named_targets(spec: Found) -> list[tuple[Found, str]]:
    """Targets, with what stands before their metrics' names."""
    targets = spec["targets"]
    return [(target, f"{target['name']}." if len(targets) > 1 else "") for target in targets]


def metrics_table(head: str, rows: Mapping[str, Found], target: Found, prefix: str, *, caption: str = "") -> Html:
    """A row of metrics for each entry."""
    columns = COLUMNS[target["task"]]
    cells = ([name, *(found.get(prefix + column) for column in columns)] for name, found in rows.items())
    return table((head, *columns), cells, caption=caption)
