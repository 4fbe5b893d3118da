"""The report page's robustness: a job's picture and verdict, what its attacks left, what is verified, and what rows were moved to."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from service.inference.report_markup import Html, element, figure, join, number, section, table
from service.inference.robustness_result import named

Found = Mapping[str, Any]
VERDICTS = {
    True: "The figures are reliable: all nine checks ran and held.",
    False: "NOT reliable: checks failed, so the model may be less robust than is shown.",
    None: "Not every check ran, so nobody vouches for the figures.",
}


def shown(found: Found, svg: bytes | None) -> Html:
    """Sections of a robustness job's result; `svg` is its picture."""
    parts = [
        section("Robustness", _verdict(found), _head(found), _picture(svg)),
        _section("Certified", _certified(found.get("certified"), found)),
        _section("Everyday corruption", _corrupted(found)),
        _section("How far rows were moved", _distances(found), _transfer(found.get("transfer"))),
        section("Under attack", *_attacked(found), wide=True),
    ]
    if found.get("checks"):
        parts.append(section("Robustness checks", _checks(found["checks"]), wide=True))
    return join(parts)


def _section(title: str, *content: Html) -> Html:
    return section(title, *content) if any(content) else Html()


def _measure(found: Found) -> str:
    return "accuracy" if "accuracy" in found["clean"] else "rmse"


def _verdict(found: Found) -> Html:
    failed = found.get("reasons") or ()
    reasons = element("p", f"Failed: {', '.join(failed)}.") if failed else Html()
    return join([element("p", element("strong", VERDICTS[found.get("reliable")])), reasons])


def _head(found: Found) -> Html:
    measure = _measure(found)
    before = f"{measure} {_with_interval(found['clean'], measure)} before"
    return element("p", f"{found['rows']:,} rows of {found['split']}, mode {found['mode']}; {before}.")


def _with_interval(point: Found, measure: str) -> str:
    """A figure with its interval where it has one."""
    value = number(None if point[measure] is None else float(point[measure]))
    return f"{value} [{number(float(point['low']))}, {number(float(point['high']))}]" if "low" in point else value


def _picture(svg: bytes | None) -> Html:
    if svg is None:
        return Html()
    said = (
        "What attacks left, by epsilon: a line for each attack; the worst of all per row, and what is verified, with intervals of 95 %; "
        "below them the worst case by class, and rows before and after, where the job has them."
    )
    return figure(svg, "Robustness against epsilon", said)


def _attacked(found: Found) -> Iterable[Html]:
    """What each attack left at each epsilon, the rungs of ladders, and the worst case by class."""
    within = [attack for attack in found["attacks"] if "epsilon" in attack["curve"][0]]
    measure, worst = _measure(found), found["worst_case"]
    if not within:
        yield element("p", "Nothing but corruption was asked for.")
        return
    epsilons = [f"at {point['epsilon']:g}" for point in worst]
    rows = [[named(attack), *(float(point[measure]) for point in attack["curve"]), _flat(attack)] for attack in within]
    spread = ", with an interval of 95 % for the worst of all per row" if measure == "accuracy" else ""
    rows.append(["worst of all", *(float(point[measure]) for point in worst), None])
    if measure == "accuracy":
        rows += [
            [f"{end} end of its interval", *(float(point[key]) for point in worst), None]
            for end, key in (("lower", "low"), ("upper", "high"))
        ]
    said = f"{measure} left, by epsilon{spread}; and the largest share of rows whose gradient was exactly zero"
    yield table(("attack", *epsilons, "no gradient"), rows, caption=said)
    for attack in within:
        # At epsilon 0 nothing is climbed.
        climbed = [point.get("rungs", {}) for point in attack["curve"]]
        left = [[f"after {rung.replace('_', ' ')}", *(rungs.get(rung) for rungs in climbed)] for rung in max(climbed, key=len)]
        if left:
            yield table((named(attack), *epsilons), left, caption="rung by rung, each on what the ones before left")
    yield _by_class(found["per_row"], worst)


def _flat(attack: Found) -> str | None:
    """The largest share of rows without a gradient."""
    shares = [share for point in attack["curve"] if (share := point.get("zero_gradients")) is not None]
    return f"{max(shares):.1%}" if shares else None


def _by_class(per_row: Found, worst: Sequence[Found]) -> Html:
    """The worst case over the rows of each class."""
    labels, broken = per_row.get("label") or [], per_row["broken_at"]
    if not worst or "accuracy" not in worst[0] or not labels:
        return Html()
    counts = Counter(str(label) for label in labels)
    rows = []
    for name, count in sorted(counts.items(), key=lambda item: (len(item[0]), item[0])):
        own = [at for label, at in zip(labels, broken, strict=True) if str(label) == name]
        rows.append([name, count, *(sum(at is None or at > point["epsilon"] for at in own) / count for point in worst)])
    heads = ("class", "rows", *(f"at {point['epsilon']:g}" for point in worst))
    return table(heads, rows, caption="worst of all, by class and epsilon")


def _checks(checks: Sequence[Found]) -> Html:
    rows = [(f"{each['name']}: {each['message']}", "held" if each["passed"] else "FAILED", float(each["value"])) for each in checks]
    return table(("check", "", "figure"), rows)


def _certified(found: Found | None, whole: Found) -> Html:
    """What nothing within epsilon changes, beside what attacks left."""
    if found is None:
        return Html()
    if found["curve"] is None:
        return element("p", f"Nothing is verified: {found['reason']}.")
    measure = _measure(whole)
    attacked = {point["epsilon"]: point[measure] for point in whole["worst_case"]}
    rows: list[Sequence[object]]
    if measure == "accuracy":
        heads = ("epsilon", "clean error", "attacked error", "verified error", "verified accuracy")
        rows = [
            (f"{point['epsilon']:g}", 1 - whole["clean"]["accuracy"], 1 - attacked.get(point["epsilon"], np.nan),
             point["verified_error"], _with_interval(point, measure))
            for point in found["curve"]
        ]  # fmt: skip
    else:
        heads = ("epsilon", "clean rmse", "attacked rmse", "verified rmse", "verified mae")
        rows = [
            (f"{point['epsilon']:g}", whole["clean"]["rmse"], attacked.get(point["epsilon"]), point["rmse"], point["mae"])
            for point in found["curve"]
        ]
    said = f"By interval bounds in {found['norm']}: no perturbation within epsilon does worse than is verified, whoever looks for one."
    return join([table(heads, rows), element("p", said)])


def _corrupted(found: Found) -> Html:
    """What corruption left at each severity."""
    measure = _measure(found)
    beside = [attack for attack in found["attacks"] if "severity" in attack["curve"][0]]
    rows = [[attack["type"], *(float(point[measure]) for point in attack["curve"])] for attack in beside]
    if not rows:
        return Html()
    heads = ("corruption", *(f"severity {point['severity']}" for point in beside[0]["curve"]))
    return table(heads, rows, caption=f"{measure} left")


def _distances(found: Found) -> Html:
    """How long the perturbations are that broke rows, beside how far another class is."""
    per_row = found["per_row"]
    pairs = [
        (moved, near)
        for moved, near in zip(
            per_row.get("perturbation", ()), per_row.get("nearest_other", ()), strict=False
        )  # older results have neither
        if moved is not None and near is not None
    ]
    rows = []
    if pairs:
        rows.append(_quartiles("perturbation that broke a row", [moved for moved, _ in pairs]))
        rows.append(_quartiles("from there to the nearest training row of another class", [near for _, near in pairs]))
    shortest = [distance for distance in per_row.get("distance", ()) if distance is not None]
    rows += [_quartiles("shortest perturbation that was found", shortest)] if shortest else []
    if not rows:
        return Html()
    heads = ("length, in the attack's norm and unit", "lower quartile", "median", "upper quartile")
    if not pairs:
        return table(heads, rows)
    beyond = sum(moved >= near for moved, near in pairs)
    said = f"{beyond:,} of {len(pairs):,} broken rows were moved as far as the nearest training row of another class is, or farther: "
    return join([table(heads, rows), element("p", said + "there the truth may have changed with the row.")])


def _quartiles(name: str, values: Sequence[float]) -> list[object]:
    return [name, *(float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))]


def _transfer(found: Found | None) -> Html:
    """What rows that were moved against one member do to the others."""
    if found is None:
        return Html()
    rows = [[f"made on member {member}", *found["accuracy"][i], found["together"][i]] for i, member in enumerate(found["members"])] + [
        ["made on all together", *[None] * len(found["members"]), found["direct"]]
    ]
    heads = ("rows", *(f"member {member}" for member in found["members"]), "all together")
    return table(heads, rows, caption=f"transfer: accuracy at epsilon {found['epsilon']:g}")
