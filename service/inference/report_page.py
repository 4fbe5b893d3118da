"""The report as one self-contained HTML page: tables, pictures, and what was not measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.inference import report_adversarial, report_averages, report_robustness, report_scales
from service.inference.report_markup import Html, document, element, figure, folded, number, section, table
from service.inference.report_stopping_page import stopping
from service.inference.report_tables import COLUMNS, metrics_table, named_targets

Found = Mapping[str, Any]
UNSAID = ("argmax", None)
"""Decisions that need no word: the default, and that there is none."""
NOISELESS = ("mse", "mae", "huber", "quantile")
"""Losses of numbers that say nothing of their noise."""
UNATTACKED = "Robustness to noise and attacks: it takes a robustness job."
BELOW = (b'<section class="wide"><h2>In detail</h2>', b"</main>", b"</body>")
"""What robustness is put before: the first of these that a page has, pages of older releases among them."""
MOST_LISTED = 200
"""Entries of a list in the spec that are shown."""


def render(measured: Found, plots: Mapping[str, bytes], about: Found) -> bytes:
    """The page of a report; `about` is the model's `name`, `spec`, `layers`, `parameters` (of a member) and `members`."""
    spec = about["spec"]
    sections = [
        _tests(measured, spec),
        _members(measured, spec),
        _curves(plots.get("learning_curves.svg"), stopped=measured["early_stopping"] is not None),
        _confusion(plots.get("confusion_matrix.svg")),
        _calibration(plots.get("reliability.svg"), measured["calibration"]),
        report_averages.ensemble(measured["ensemble"], plots.get("ensemble.svg")),
        report_averages.dropout(measured["dropout"], spec, plots.get("dropout.svg")),
        report_averages.uncertainty(measured["uncertainty"], spec),
        _targets(measured.get("targets")),
        report_adversarial.shown(measured.get("adversarial_training")),
        _weights(measured),
        report_scales.activations(measured["activations"]),
        _gradients(plots.get("gradients.svg")),
        _features(plots.get("features.svg")),
        _augmentation(measured, plots.get("augmentation.svg")),
        section(
            "In detail",
            report_scales.normalization(measured["normalization"], measured["constant_features"]),
            _layers(about, measured["parameters"]),
            _spec(spec),
            wide=True,
        ),
        section("Not measured", element("p", " ".join(unmeasured(measured, spec))), wide=True),
    ]
    return document(f"{about['name']} · Temper", _header(about), element("main", *sections))


def with_robustness(page: bytes, found: Found, svg: bytes | None) -> bytes:
    """A stored page with a robustness job's result, which came after it, in the place of the sentence that says there is none."""
    above, silent, below = page.rpartition(f"{UNATTACKED} ".encode())
    page = above + below if silent else page
    # Text on the page is escaped, and so cannot look like the place.
    place = next((at for mark in BELOW if (at := page.rfind(mark)) >= 0), len(page))
    return page[:place] + report_robustness.shown(found, svg).encode() + page[place:]


def _header(about: Found) -> Html:
    """The model in one line."""
    spec, members = about["spec"], about["members"]
    widths = [str(layer["shape"][-1]) for layer in about["layers"]]
    facts = [
        f"{spec['architecture']['type']} {'-'.join(widths) if len(widths) <= 8 else f'of {len(widths)} layers'}",
        "1 network" if members == 1 else f"{members} members{', bagged' if spec['ensemble']['bootstrap'] else ''}",
        f"{about['parameters']:,} parameters{'' if members == 1 else ' each'}",
        f"trained on {spec['dataset']}",
    ]
    return element("header", element("h1", about["name"]), element("p", " · ".join(facts)))


def _tests(measured: Found, spec: Found) -> Html:
    """Metrics on test of every mode, and of the default mode on every part."""
    modes = measured["modes"] or {}
    default = "ensemble" if "ensemble" in modes else "single"
    by_mode = {f"{mode} (default)" if mode == default else mode: found for mode, found in modes.items()}
    by_part = {part: found for part, found in measured["splits"].items() if found is not None}
    tables = []
    for target, prefix in named_targets(spec):
        caption = target["name"] if prefix else ""
        tables += [metrics_table("mode", by_mode, target, prefix, caption=caption)] if by_mode else []
        tables.append(metrics_table("default mode on", by_part, target, prefix, caption=caption))
    return section("Test metrics" if by_mode else "Metrics", *tables)


def _members(measured: Found, spec: Found) -> Html:
    """Each member's own values and weight where it has them, its stopping point and its own test metrics."""
    target, prefix = named_targets(spec)[0]
    columns = COLUMNS[target["task"]][:2] if measured["modes"] else ()
    varied = tuple((measured["members"][0].get("vary") or {}) if measured["members"] else {})
    weights = (measured.get("selection") or {}).get("weights")
    rows = []
    for place, found in enumerate(measured["members"]):
        reason = found["stop_reason"].replace("_", " ")
        own = (found.get(prefix + column) for column in columns)
        values = [found["vary"][name] for name in varied] + ([weights[place]] if weights else [])
        rows.append([found["member"], *values, found["best_epoch"], found["stopped_epoch"], reason, *own])
    chosen = ("weight",) if weights else ()
    heads = ("member", *(name.replace("_", " ") for name in varied), *chosen, "kept epoch", "of", "ended by", *columns)
    caption = "epochs, and metrics on test" if columns else ""
    return section("Members" if len(rows) > 1 else "Training", table(heads, rows, caption=caption), stopping(measured["early_stopping"]))


def _curves(svg: bytes | None, *, stopped: bool) -> Html:
    """What training did, epoch by epoch."""
    if svg is None:
        return Html()
    said = (
        "The training loss is an epoch's mean, under dropout and noise if there are any; the validation loss is measured after it, without."
    )
    ring = " A ring marks the best epoch, whose weights were kept or gone on from; a second phase is drawn with dashes." if stopped else ""
    return section("Learning curves", figure(svg, "Loss per epoch", said + ring))


def _confusion(svg: bytes | None) -> Html:
    """Which classes are taken for which."""
    if svg is None:
        return Html()
    said = "Test rows by true and predicted class; the colour is the share of the true class."
    return section("Confusion matrix", figure(svg, "Confusion matrix", said))


def _calibration(svg: bytes | None, found: Found | None) -> Html:
    """How far the model's certainty may be believed."""
    parts = [figure(svg, "Calibration on test", "How sure the model says it is, against what happened on test rows.")] if svg else []
    if found is not None:
        names = {"ece": "ece, expected calibration error", "nll": "nll, nats", "brier": "brier, sum over classes"}
        parts.append(table(("default mode", "on test"), ((text, found[name]) for name, text in names.items())))
    if found is not None and found["temperature"] is not None:
        verdict = "too sure of itself (above 1)" if found["temperature"] > 1 else "less sure of itself than it may be (below 1)"
        parts.append(element("p", f"Validation rows ask for a temperature of {found['temperature']:.3g}: the model is {verdict}."))
    return section("Calibration", *parts) if parts else Html()


def _targets(found: Found | None) -> Html:
    """What each target counts and how it decides, where there is more to say than the spec does."""
    told = {name: own for name, own in (found or {}).items() if len(found or {}) > 1 or own["decision"] not in UNSAID or own["noise_std"]}
    if not told:
        return Html()
    rows = [(name, own["weight"], _decision(own["decision"]), report_scales.listed(own["noise_std"])) for name, own in told.items()]
    return section("Targets", table(("target", "weight in the objective", "decision", "noise std"), rows))


def _decision(found: Any) -> str | None:
    if found is None or isinstance(found, str):
        return found
    return f"from {number(found['threshold'])} on" if "threshold" in found else "least cost"


def _weights(measured: Found) -> Html:
    """Penalties at the kept weights, weights that are gone, gates that stayed open, and what sharing saved."""
    penalties, sparsity, gates = measured["penalties"], measured["sparsity"], measured.get("gates")
    paid = [table(("penalty", "part of the objective"), penalties.items())] if penalties else []
    rows = ((name, found["inputs"], sum(found["open"]) / len(found["open"])) for name, found in (gates or {}).items())
    read = [table(("layer with gates", "inputs", "of these read"), rows)] if gates else []
    shares = table(("layer", "weights 0 or taken out"), ((name, f"{share:.1%}") for name, share in sparsity.items()))
    return section("Weights", *paid, shares, *read)


def _augmentation(measured: Found, svg: bytes | None) -> Html:
    """What training saw in place of the rows, and how far answers move with it."""
    parts = [figure(svg, "Rows as training saw them", "Training rows as they are stored, and as training saw them.")] if svg else []
    if measured["invariance"]:
        said = "How far the best member's answers on test rows move when the augmentation is applied to them."
        parts += [table(("augmentation", "mean change"), measured["invariance"].items()), element("p", said)]
    if measured["noise"] is not None:
        rows = ((f"{point['sigma']:.1f}", point["value"]) for point in measured["noise"]["by_sigma"])
        parts.append(table(("noise, of the range", f"{measured['noise']['metric']} on test"), rows))
    return section("Augmentation", *parts) if parts else Html()


def _gradients(svg: bytes | None) -> Html:
    """How much of the loss reached each layer."""
    if svg is None:
        return Html()
    said = "Norms of the gradient of the loss on training rows, without dropout, augmentation and penalties."
    return section("Gradients", figure(svg, "Gradient norm by layer", said))


def _features(svg: bytes | None) -> Html:
    """What the first layer and convolutions look for."""
    if svg is None:
        return Html()
    said = (
        "Filters of the first layer. Of other convolutions the strongest channels: the row that each answers to most, cut to what its "
        "strongest unit sees, and its projection."
    )
    return section("Features", figure(svg, "Filters, and rows beside their projections", said))


def _layers(about: Found, counted: Found) -> Html:
    rows = ((layer["name"], layer["type"], " x ".join(map(str, layer["shape"])), layer["parameters"]) for layer in about["layers"])
    tied, saved = counted["saved_by_tying"], counted.get("saved_by_sharing", 0)
    said = [element("p", f"Tying saves {tied:,} parameters: so many more would there be without.")] if tied else []
    if saved > tied:
        unshared = f"{counted['unshared']:,} parameters without any sharing, of places and of steps: it saves {saved:,}."
        said.append(element("p", unshared))
    return folded("Layers", table(("layer", "type", "output", "parameters"), rows), *said)


def _spec(spec: Found) -> Html:
    return folded("Spec with all defaults", element("pre", json.dumps(short(spec), indent=2, ensure_ascii=False), tabindex="0"))


def short(value: Any) -> Any:
    """A spec with only the first of its row numbers, of which there may be a million."""
    if isinstance(value, dict):
        return {key: short(inner) for key, inner in value.items()}
    if isinstance(value, list) and len(value) > MOST_LISTED:
        return [*value[:10], f"… {len(value):,} in all"]
    return [short(inner) for inner in value] if isinstance(value, list) else value


def unmeasured(measured: Found, spec: Found) -> Sequence[str]:
    """Sentences on what this report is silent about, and why."""
    splits, said = measured["splits"], [UNATTACKED]
    if splits["test"] is None:
        said.append("Rows never seen: the split has no test part.")
    if measured["early_stopping"] is None:
        why = "it was turned off" if splits["validation"] is not None else "the split has no validation part"
        said.append(f"The best epoch: {why}, and the last weights were kept.")
    if len(measured["members"]) == 1:
        said.append("What averaging would save: there is one network.")
    if measured["dropout"] is None and splits["test"] is not None:
        said.append("Dropout at prediction: the network was trained without it.")
    blind = [target["loss"] for target in spec["targets"] if target["loss"] in NOISELESS and target.get("noise_std") is None]
    if blind:
        said.append(f"The noise of regression targets, and so their nll: the loss is {blind[0]}.")
    intervals = "have no intervals" if measured["ensemble"] is None else "have no intervals, but for the ensemble against its best member"
    return [*said, f"All figures are of one split and one seed; they {intervals}."]
