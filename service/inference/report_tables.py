"""Tables of metrics, as several parts of the report's page have them."""

from collections.abc import Mapping
from typing import Any

from service.inference.report_markup import Html, table

Found = Mapping[str, Any]
COLUMNS = {"classification": ("accuracy", "nll", "brier", "ece"), "regression": ("rmse", "mae", "r2", "nll")}


def named_targets(spec: Found) -> list[tuple[Found, str]]:
    """Targets, with what stands before their metrics' names."""
    targets = spec["targets"]
    return [(target, f"{target['name']}." if len(targets) > 1 else "") for target in targets]


def metrics_table(head: str, rows: Mapping[str, Found], target: Found, prefix: str, *, caption: str = "") -> Html:
    """A row of metrics for each entry."""
    columns = COLUMNS[target["task"]]
    cells = ([name, *(found.get(prefix + column) for column in columns)] for name, found in rows.items())
    return table((head, *columns), cells, caption=caption)
