"""The parts of the report's page on averages: members together, dropout masks together, and what they disagree on."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.inference.report_markup import Html, element, figure, number, section, table
from service.inference.report_tables import metrics_table, named_targets

Found = Mapping[str, Any]
AVERAGES = {
    "weight_scaled": "weight scaling",
    "arithmetic": "mean of 50 masks",
    "geometric": "geometric mean of 50 masks",
    "exact": "mean of all masks",
    "exact_geometric": "geometric mean of all masks",
}
MASKS_SHOWN = (1, 10, 50)
"""Numbers of masks that have a row of the table."""


def ensemble(found: Found | None, svg: bytes | None) -> Html:
    """The formula of the ensemble's error beside the measured one, the best member, and what k members cost."""
    if found is None:
        return Html()
    out, likelihood = found["out_of_bag_rows"], found["likelihood"] or {}
    rows = [
        ("k, members", found["k"]),
        ("v, squared error of one member", found["v"]),
        ("c, product of two members' errors", found["c"]),
        ("predicted: v/k + (k - 1) c/k", found["predicted_error"]),
        ("measured", found["measured_error"]),
        ("saved by averaging", found["ambiguity"]),
        (f"best member, number {found['best_member']['member']}", found["best_member"]["error"]),
        *([("out of bag, on training rows", found["out_of_bag"])] if found["out_of_bag"] is not None else []),
    ]
    names = {"nll": "nll of the average", "nll_mixture": "nll of the mixture", "mean_member_nll": "nll of the mean member"}
    likely = [(name, likelihood[key]) for key, name in names.items() if likelihood.get(key) is not None]
    pictures = [figure(svg, "Error by number of members", _drawn(found))] if svg else []
    return section(
        "Ensemble",
        *pictures,
        table(("mean over test rows", found["error"]), rows),
        *([table(("mean over test rows", "nats"), likely)] if likely else []),
        *(element("p", said) for said in _said(found, out)),
    )


def _drawn(found: Found) -> str:
    return (
        f"The {found['error']} of the first members together, against the formula's mean over all choices of so many. "
        "Dots at 1 are the members."
    )


def _said(found: Found, out: Found | None) -> Iterable[str]:
    """Sentences on what averaging saved, whether it beat the best member, what it cost, and which rows were out of bag."""
    gain = found["ambiguity"] / found["v"] if found["v"] else 0.0
    common = found["c"] / found["v"] if found["v"] else 0.0
    yield (
        f"Averaging {found['k']} members takes {gain:.0%} off one member's {found['error']} error; the {common:.0%} that any two of them"
        " have in common (c/v) would stay with ever so many."
    )
    best = found["best_member"]
    better = best["ensemble_better"]
    verdict = "beats" if better["low"] > 0 else "is beaten by" if better["high"] < 0 else "cannot be told from"
    yield (
        f"The ensemble {verdict} member {best['member']}, the best of them on these very rows: that member's error minus the ensemble's"
        f" is {number(better['difference'])}, {better['level']:.0%} interval {number(better['low'])} to {number(better['high'])}."
    )
    cost = found["cost"]
    steps = cost["training_steps"]
    trained = f", and {steps['ensemble']:,} training steps instead of {steps['member']:,}" if steps is not None else ""
    yield f"It takes {cost['parameters']['ensemble']:,} parameters instead of {cost['parameters']['member']:,}{trained}."
    if out is not None:
        yield (
            f"Out of bag are {out['rows']:,} labelled training rows, each answered by the members that did not see it;"
            f" {out['excluded']:,} that all members saw are left out. A member did not see {out['unseen']:.1%} of the rows."
        )


def dropout(found: Found | None, spec: Found, svg: bytes | None) -> Html:
    """Weight scaling beside means over masks, how far they lie apart, and how many masks it takes."""
    if found is None:
        return Html()
    target, prefix = named_targets(spec)[0]
    rows = {AVERAGES[key]: found[key] for key in AVERAGES if found[key] is not None}
    gaps = [(" and ".join(AVERAGES[name] for name in pair["between"]), pair["gap"]) for pair in found["gaps"]]
    parts = [figure(svg, "Error by number of masks", _way(found["convergence"]))] if svg else []
    said = f"The answers of weight scaling and of the mean over masks differ by {number(found['gap'])} on average."
    return section(
        "Dropout",
        *parts,
        metrics_table("best member", rows, target, prefix),
        *([table(("answers of", "mean |difference|"), gaps)] if len(gaps) > 1 else []),
        *_masks(found["convergence"]),
        element("p", said),
        *_cut(found["disconnected"]),
    )


def _way(found: Found) -> str:
    return (
        f"The {found['error']} of the best member's first masks together, on {found['rows']:,} test rows. The line falls with one over"
        " their number, the band of two standard deviations with one over its root in the end."
    )


def _masks(found: Found | None) -> list[Html]:
    """How the answers of so many masks scatter, measured and as one over the root says."""
    if found is None:
        return []
    rows = [
        (row["samples"], row["measured"], row["deviation"], row["predicted_deviation"])
        for row in found["by_samples"]
        if row["samples"] in MASKS_SHOWN
    ]
    heads = ("masks", found["error"], "scatter of answers", "falling as 1/sqrt(masks)")
    return [table(heads, rows)]


def _cut(share: float | None) -> list[Html]:
    if share is None:
        return []
    return [element("p", f"Of all masks {number(share)}, as a share, leave no path from input to output.")]


def uncertainty(found: Found | None, spec: Found) -> Html:
    """How unsure the modes are on average, and how much of it is their networks' disagreement."""
    if not found:
        return Html()
    tables = []
    for target, prefix in named_targets(spec):
        own = {mode: said[target["name"]] for mode, said in found.items()}
        columns = list(next(iter(own.values())))
        heads = ("mode", *(column.replace("_std", " std") for column in columns))
        cells = ([mode, *(said[column] for column in columns)] for mode, said in own.items())
        unit = "nats" if "total" in columns else "the target's unit"
        tables.append(table(heads, cells, caption=f"{target['name'] + ', ' if prefix else ''}mean over test rows, in {unit}"))
    said = "Aleatoric is what the networks agree the rows leave open, epistemic what they disagree on; a dash: not known."
    return section("Uncertainty", *tables, element("p", said))
