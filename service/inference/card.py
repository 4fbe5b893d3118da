"""`card.md`: what is known of a model, for whoever gets its files (Mitchell et al. 2019, "Model cards for model reporting").

Only what was stored or measured; what nobody told the service, such as a licence, is said to be unknown.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import orjson

from service.inference.report_page import short
from service.inference.report_tables import COLUMNS, named_targets
from service.inference.robustness_result import interval

FILE = "card.md"
Found = Mapping[str, Any]
PARTS = ("train", "validation", "test")
MARKUP = {ord(mark): f"\\u{ord(mark):04x}" for mark in "`<>&"}
"""Marks within the texts of JSON, as JSON can have them too."""
MOST_FIELDS = 40
"""Inputs that are listed one by one."""


def card(model: Found, measured: Found) -> bytes:
    """The card of a model's row, with its `dataset` or null, and of its report."""
    sections = {
        "Model": _model(model),
        "Data": _data(model, measured),
        "Results": _results(model["spec"], measured),
        "Robustness": _robustness(measured.get("robustness")),
        "Limits": [f"- {line}" for line in _limits(model, measured)],
        "Specification": ["```json", orjson.dumps(short(model["spec"]), option=orjson.OPT_INDENT_2).decode().translate(MARKUP), "```"],
    }
    lines = [f"# {plain(model['name'])}, version {model['version']}"]
    for head, content in sections.items():
        lines += ["", f"## {head}", "", *content]
    return ("\n".join(lines) + "\n").encode()


def plain(value: object) -> str:
    """A text of the user's as Markdown shows it: nothing in it is markup, and it is one line."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", escape(" ".join(str(value).split()), quote=False))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table; numbers with four digits, a dash for what is not there."""
    return [f"| {' | '.join(map(_cell, cells))} |" for cells in (head, ["---"] * len(head), *rows)]


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else plain(value)


def _model(model: Found) -> list[str]:
    spec = model["spec"]
    heads = ", ".join(f"{plain(target['name'])} ({target['task']})" for target in spec["targets"])
    made = datetime.fromtimestamp(model["created_at"], UTC).strftime("%Y-%m-%d")
    weights = (model["details"] or {}).get("weights")
    return [
        f"- `{model['id']}`, made on {made}; SHA-256 of `model.safetensors`: `{model['sha256']}`",
        f"- {spec['architecture']['type']}, {model['parameters']:,} parameters{'' if model['members'] == 1 else ' a member'}",
        f"- {_members(spec, model['members'])}{'' if weights is None else ', weighted ' + ', '.join(f'{w:.3g}' for w in weights)}",
        f"- predicts {heads}",
        f"- seed {spec['seed']}; with the specification below, the data and the same releases training can be repeated",
    ]


def _members(spec: Found, members: int) -> str:
    return "1 network" if members == 1 else f"{members} members{', bagged' if spec['ensemble']['bootstrap'] else ''}"


def _data(model: Found, measured: Found) -> list[str]:
    spec, dataset, rows = model["spec"], model["dataset"], measured.get("rows")
    lines = [f"- trained on `{spec['dataset']}`, which is no longer stored"]
    if dataset is not None:
        lines = [f"- trained on {plain(dataset['name'])} ({dataset['format']}, {dataset['rows']:,} rows, SHA-256 `{dataset['sha256']}`)"]
    if rows is not None:
        lines.append("- rows: " + ", ".join(f"{rows[part]:,} {part}" for part in PARTS))
    lines.append(f"- split: {_split(spec['split'])}")
    inputs = model["signature"]["inputs"]
    names = [plain(field["name"]) + (f" {field['shape']}" if field["shape"] else "") for field in inputs[:MOST_FIELDS]]
    lines.append(f"- inputs: {', '.join(names)}{f' and {len(inputs) - MOST_FIELDS} more' if len(inputs) > MOST_FIELDS else ''}")
    return [*lines, "- who the rows are from, how they were collected and what is allowed with them: unknown"]


def _split(split: Any) -> str:
    if not isinstance(split, Mapping):
        return "as the dataset gives it" if split == "given" else "as by default"
    named = {key: value for key, value in split.items() if value is not None and not key.endswith("_rows")}
    return ", ".join(f"{key} {plain(value)}" for key, value in named.items())


def _results(spec: Found, measured: Found) -> list[str]:
    parts = {part: found for part in PARTS if (found := measured["splits"].get(part)) is not None}
    lines = []
    for target, prefix in named_targets(spec):
        lines += [f"{plain(target['name'])}, the default mode:", "", *_metrics("part", parts, target, prefix), ""]
    counts = measured.get("confusion_matrix")
    if counts is not None:
        rows, right = sum(map(sum, counts["matrix"])), sum(line[i] for i, line in enumerate(counts["matrix"]))
        low, high = interval(right, rows)
        lines.append(f"Accuracy of {plain(counts['target'])} on test: {right} of {rows} rows, 95 % between {low:.4f} and {high:.4f}")
        lines.append("(Clopper-Pearson). Intervals of the other figures were not computed.")
    else:
        lines.append("Intervals of these figures were not computed.")
    if measured["modes"]:
        target, prefix = named_targets(spec)[0]
        lines += ["", f"{plain(target['name'])} on test, by mode:", "", *_metrics("mode", measured["modes"], target, prefix)]
    return [*lines, *_alarms((measured.get("reconstruction") or {}).get("anomaly"))]


def _metrics(head: str, rows: Mapping[str, Found], target: Found, prefix: str) -> list[str]:
    columns = COLUMNS[target["task"]]
    return table((head, *columns), ([name, *(found.get(prefix + column) for column in columns)] for name, found in rows.items()))


def _alarms(found: Found | None) -> list[str]:
    if found is None:
        return []
    share = "" if found["test"] is None else f"; {found['test']:.2%} of the test rows have more"
    return ["", f"As a detector of anomalies at {found['false_alarm_rate']:.0%} false alarms: error above {found['threshold']:.4g}{share}."]


def _robustness(found: Found | None) -> list[str]:
    if found is None:
        return ["Not measured."]
    names = [key for key in ("accuracy", "rmse", "low", "high") if key in found["clean"]]
    points = [("none", found["clean"]), *((attack["type"], point) for attack in found["attacks"] for point in attack["curve"])]
    points += [("worst of all", point) for point in found["worst_case"]]
    certified = found.get("certified") or {"curve": None, "reason": None}
    points += [(f"verified: any in {certified['norm']}", point) for point in certified["curve"] or ()]
    cells = ([kind, point.get("epsilon", point.get("severity")), *(point.get(name) for name in names)] for kind, point in points)
    lines = table(("attack", "epsilon or severity", *names), cells)
    verdict = {True: "all checks held", False: f"not to be trusted: {', '.join(found['reasons'])}", None: "not every check ran"}
    rows = f"{found['rows']} rows of {found['split']}, mode {found['mode']}, the inputs' own units"
    unverified = [] if certified["reason"] is None else ["", f"Nothing is verified: {plain(certified['reason'])}."]
    return [*lines, "", f"{rows}; {verdict[found['reliable']]}.", *unverified]


def _limits(model: Found, measured: Found) -> Iterable[str]:
    """What the model was not shown to do."""
    spec = model["spec"]
    yield "Licence, intended use and those responsible: unknown."
    yield "All figures are of rows of one dataset. On rows of another source they say nothing."
    if not measured["splits"].get("test"):
        yield "There was no test part: no figure here is of rows that had no part in training or in the choice of weights."
    if spec["early_stopping"] is not None:
        yield "Validation rows chose when training stopped: figures on them are better than on fresh rows."
    if measured.get("robustness") is None:
        yield "How the model does on rows that were moved against it was not measured."
    if measured.get("calibration") and measured["calibration"]["ece"] is not None:
        yield f"Expected calibration error on test: {measured['calibration']['ece']:.4f}; no temperature is applied."
    if measured.get("constant_features"):
        yield "Some inputs had one value in all training rows; the model knows nothing of others."
