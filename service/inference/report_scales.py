"""The parts of the report's page on scales: what was shifted and divided by, what never changed, and which units came to an end."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.inference.report_markup import Html, element, folded, number, section, table

Found = Mapping[str, Any]
MOST_FIELDS = 200
"""Rows of a table of fields."""


def normalization(found: Found, constant: Found | None) -> Html:
    """What every field was shifted and divided by, inside the model, and those that had one value in training."""
    rows = [[name, *(listed(value) for value in used.values())] for name, used in found.items()]
    more = [element("p", f"{len(rows) - MOST_FIELDS:,} more fields are in the report as JSON.")] if len(rows) > MOST_FIELDS else []
    return folded("Normalization", table(("field", "minus", "divided by"), rows[:MOST_FIELDS]), *more, *_constant(constant))


def _constant(found: Found | None) -> Iterator[Html]:
    """Inputs that never changed in training, with what they add to a squared error by part."""
    if found is None:
        return
    parts = [part for part in ("train", "validation", "test") if part in found]
    rows: list[list[object]] = [["all constant inputs", None, *(found[part] for part in parts)]]
    rows += [[_place(own), own["value"], *(own[part] for part in parts)] for own in found["features"]]
    said = "mean squared deviation from the one value that the training rows have; these inputs are divided by 1"
    yield table(("input", "value", *parts), rows, caption=said)


def _place(own: Found) -> str:
    return str(own["field"]) if own["entry"] is None else f"{own['field']} [{', '.join(map(str, own['entry']))}]"


def activations(found: Found | None) -> Html:
    """Saturated and dead units of each layer, before training and at the kept weights."""
    if found is None:
        return Html()
    shares = [(name, own["activation"], *_shares(own, "saturated"), *_shares(own, "dead")) for name, own in found["layers"].items()]
    heads = ("layer", "activation", "saturated, first step", "best step", "dead, first step", "best step")
    said = (
        f"On {found['rows']:,} training rows. Saturated: the share of outputs in the outer twentieth of the activation's range at either "
        "end, where little of a gradient gets through. Dead: the share of units that give every row the same."
    )
    return section("Units", table(heads, shares), element("p", said))


def _shares(own: Found, name: str) -> Iterator[str | None]:
    for moment in ("first", "best"):
        share = own[moment][name]
        yield None if share is None else f"{share:.1%}"


def listed(value: Any) -> object:
    """A number, or the first few of many."""
    if not isinstance(value, list):
        return value
    flat = list(_leaves(value))
    return ", ".join(number(one) for one in flat[:3]) + (f", … ({len(flat)} numbers)" if len(flat) > 3 else "")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value
