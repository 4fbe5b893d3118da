import base64
import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from service.inference.report_markup import POLICY, number
from service.inference.report_page import render, unmeasured

EVIL = "<script>alert('1')</script>\"&"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
LAYERS = [
    {"name": "hidden.0", "type": "linear", "shape": (8,), "parameters": 24},
    {"name": "head.kind", "type": "linear", "shape": (3,), "parameters": 27},
]


def classified(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "nll": accuracy / 2, "brier": accuracy / 4, "ece": accuracy / 8, "loss": accuracy / 2}


MEMBER = {"best": 0.2, "best_epoch": 7, "best_step": 70, "stopped_epoch": 17, "stop_reason": "early_stopping"}
ABOUT: dict[str, Any] = {
    "name": "digits",
    "layers": LAYERS,
    "parameters": 51_234,
    "members": 2,
    "spec": {
        "dataset": "digits",
        "architecture": {"type": "mlp"},
        "ensemble": {"bootstrap": True},
        "targets": [{"name": "kind", "task": "classification", "loss": "cross_entropy"}],
        "split": {"test_rows": list(range(5000))},
    },
}
MEASURED: dict[str, Any] = {
    "splits": {"train": classified(0.99), "validation": classified(0.98), "test": classified(0.96)},
    "modes": {"single": classified(0.94), "weight_scaled": classified(0.94), "ensemble": classified(0.96)},
    "members": [{"member": 0, **classified(0.931), **MEMBER}, {"member": 1, **classified(0.932), **MEMBER}],
    "early_stopping": {
        "best_epoch": 7, "best_step": 70, "stopped_epoch": 17, "reason": "early_stopping", "stopped_by": "early_stopping",
        "epochs_saved": 1483, "distance": {"all": 1.25, "layers": {"hidden.0": 1.0, "head.kind": 0.75}},
        "equivalent_l2": 0.0714, "equivalent_l2_range": {"within": 0.05, "curvature_below": 0.0123, "shares": []},
        "then": "restore_best", "second": None,
    },
    "ensemble": {
        "error": "brier", "k": 2, "v": 0.08, "c": 0.06, "predicted_error": 0.07, "measured_error": 0.0701, "mean_member_error": 0.08,
        "ambiguity": 0.01, "out_of_bag": 0.1234, "target": "kind", "member_errors": [0.081, 0.079],
        "out_of_bag_rows": {"rows": 1234, "excluded": 56, "unlabelled": 0, "unseen": 0.368, "members": 1.2},
        "by_size": [{"k": 1, "measured": 0.081, "predicted": 0.08}, {"k": 2, "measured": 0.0701, "predicted": 0.07}],
        "best_member": {"member": 1, "error": 0.079,
                        "ensemble_better": {"difference": 0.0089, "low": 0.0021, "high": 0.0155, "level": 0.95}},
        "likelihood": {"nll": 0.21, "nll_mixture": None, "mean_member_nll": 0.23},
        "cost": {"parameters": {"member": 51_234, "ensemble": 102_468}, "forward_passes": {"member": 1, "ensemble": 2},
                 "training_steps": {"member": 1700, "ensemble": 3500}},
    },
    "dropout": {
        "weight_scaled": classified(0.94), "arithmetic": classified(0.948), "geometric": None, "exact": classified(0.952),
        "exact_geometric": None, "gap": 0.0321, "disconnected": 0.00390625,
        "gaps": [{"between": ["weight_scaled", "arithmetic"], "gap": 0.0321}, {"between": ["weight_scaled", "exact"], "gap": 0.0292},
                 {"between": ["arithmetic", "exact"], "gap": 0.0071}],
        "convergence": {
            "target": "kind", "error": "brier", "rows": 270, "masks": 100, "limit": 0.2, "weight_scaled": 0.21, "geometric": None,
            "exact": 0.199, "exact_geometric": None,
            "by_samples": [
                {"samples": 1, "measured": 0.31, "predicted": 0.3, "low": 0.2, "high": 0.4, "deviation": 0.21, "predicted_deviation": 0.21},
                {"samples": 100, "measured": 0.2, "predicted": 0.2, "low": 0.19, "high": 0.21, "deviation": None,
                 "predicted_deviation": 0.021},
            ],
        },
    },
    "uncertainty": {
        "single": {"kind": {"total": 0.41, "aleatoric": 0.41, "epistemic": None, "agreement": None}},
        "ensemble": {"kind": {"total": 0.43, "aleatoric": 0.38, "epistemic": 0.05, "agreement": 0.97}},
    },
    "calibration": {"ece": 0.12, "nll": 0.48, "brier": 0.24, "temperature": 1.75},
    "normalization": {"image": {"mean": [4.0, 5.0, 6.0, 7.0], "std": 2.5}},
    "constant_features": {
        "count": 2, "train": 0.0, "test": 0.0625,
        "features": [{"field": "image", "entry": [0, 3], "value": 7.25, "train": 0.0, "test": 0.0625},
                     {"field": "zip", "entry": None, "value": 0.0, "train": 0.0, "test": 0.0}],
    },
    "activations": {"rows": 77, "layers": {
        "hidden.0": {"activation": "tanh", "first": {"saturated": 0.321, "dead": 0.0}, "best": {"saturated": 0.123, "dead": 0.125}},
        "hidden.1": {"activation": "relu", "first": {"saturated": None, "dead": 0.5}, "best": {"saturated": None, "dead": 0.25}},
    }},
    "parameters": {"member": 51_234, "saved_by_tying": 1234},
    "sparsity": {"hidden.0": 0.25},
    "penalties": {"l2": 0.0123},
    "confusion_matrix": None,
    "invariance": {"gaussian_noise": 0.0456},
    "noise": {"metric": "accuracy", "unit": "range", "by_sigma": [{"sigma": 0.1, "value": 0.91}, {"sigma": 0.2, "value": None}]},
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would find: tags, attributes, rows of tables and text."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def page(about: dict[str, Any] | None = None, plots: dict[str, bytes] | None = None, **changes: Any) -> Page:
    return Page(render({**copy.deepcopy(MEASURED), **changes}, plots or {}, about or ABOUT))


def test_the_page_loads_nothing() -> None:
    shown = page(plots={"learning_curves.svg": SVG})
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(shown.tags)
    for tag, name, value in shown.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "srcset", "action", "style") or value.startswith("data:"), (tag, name, value)
    assert ("meta", "content", POLICY) in shown.attributes
    style = re.search(r"<style>(.*)</style>", render(MEASURED, {}, ABOUT).decode(), re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|http", style[1])
    assert "prefers-color-scheme: dark" in style[1]


def test_pictures_are_inside_as_images() -> None:
    plots = {"learning_curves.svg": SVG, "confusion_matrix.svg": SVG + b"2", "reliability.svg": SVG + b"3", "ensemble.svg": SVG + b"4",
             "dropout.svg": SVG + b"5"}  # fmt: skip
    sources = [value for tag, name, value in page(plots=plots).attributes if (tag, name) == ("img", "src")]
    assert [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")) for source in sources] == list(plots.values())
    assert "img" not in page().tags


def test_names_are_text() -> None:
    about = copy.deepcopy(ABOUT) | {"name": EVIL}
    about["spec"] |= {
        "dataset": EVIL,
        "labels": {EVIL: EVIL},
        "targets": [{"name": EVIL, "task": "classification", "loss": "cross_entropy"}],
    }
    about["layers"][0]["name"] = EVIL
    changes = {"sparsity": {EVIL: 0.5}, "normalization": {EVIL: {"mean": 1.0, "std": 2.0}}, "penalties": {EVIL: 0.1}}
    changes |= {"uncertainty": {"single": {EVIL: MEASURED["uncertainty"]["single"]["kind"]}}}
    shown = page(about, **changes)
    assert "script" not in shown.tags
    assert shown.text.count(EVIL) >= 6
    assert [EVIL, "50.0%"] in shown.rows


def test_texts_that_utf8_has_no_room_for() -> None:
    assert "a\ufffdb\ufffd" in page(ABOUT | {"name": "a\ud800b\x00"}).text


def test_metrics_of_every_mode_and_part() -> None:
    rows = page().rows
    assert ["mode", "accuracy", "nll", "brier", "ece"] in rows
    assert ["single", "0.9400", "0.4700", "0.2350", "0.1175"] in rows
    assert ["weight_scaled", "0.9400", "0.4700", "0.2350", "0.1175"] in rows
    assert ["ensemble (default)", "0.9600", "0.4800", "0.2400", "0.1200"] in rows
    assert ["validation", "0.9800", "0.4900", "0.2450", "0.1225"] in rows


def test_each_target_has_its_own_metrics() -> None:
    about = copy.deepcopy(ABOUT)
    about["spec"]["targets"].append({"name": "size", "task": "regression", "loss": "mse"})
    both = {**{f"kind.{name}": value for name, value in classified(0.9).items()}, "size.rmse": 1234.5, "size.mae": 12.3456, "size.r2": 0.5}
    shown = page(
        about, modes={"single": both}, splits={"train": both, "validation": None, "test": both}, ensemble=None, dropout=None, uncertainty={}
    )
    assert ["single (default)", "0.9000", "0.4500", "0.2250", "0.1125"] in shown.rows
    assert ["single (default)", "1,234", "12.35", "0.5000", "–"] in shown.rows
    assert {"kind", "size"} <= set(re.findall(r"\w+", shown.text))


def test_members_and_where_they_stopped() -> None:
    shown = page()
    assert ["0", "7", "17", "early stopping", "0.9310", "0.4655"] in shown.rows
    assert ["1", "7", "17", "early stopping", "0.9320", "0.4660"] in shown.rows
    assert "whose curvature is below 0.0123, stopping at step 70 acts like an L2 penalty with alpha 0.0714" in shown.text
    assert "Stopping saved 1,483 epochs." in shown.text
    assert ["head.kind", "0.7500"] in shown.rows
    assert ["all", "1.25"] in shown.rows


SECONDS = {
    "retrained": ("retrain", None, "training began anew, on validation rows too, for 70 steps, and ended as long as planned"),
    "threshold": ("continue", 0.5, "went on from the best weights, on validation rows too, for 70 steps"),
    "user_stop": ("continue", 0.5, "The weights from before it were kept."),
}


@pytest.mark.parametrize("reason", SECONDS)
def test_a_second_phase_and_what_it_does_to_validation(reason: str) -> None:
    then, threshold, words = SECONDS[reason]
    second = {"reason": reason, "epochs": 6, "steps": 70, "threshold": threshold, "validation_loss": threshold and 0.4321}
    shown = page(early_stopping={**MEASURED["early_stopping"], "then": then, "second": second})
    assert words in shown.text
    assert ("on validation are therefore of rows that were trained on" in shown.text) == (reason != "user_stop")
    assert ("The threshold was 0.5000, the loss on validation rows at the end 0.4321" in shown.text) == (threshold is not None)


def test_the_ensembles_formula_beside_its_error() -> None:
    shown = page()
    values = {row[0].partition(",")[0].partition(":")[0]: row[1] for row in shown.rows if len(row) == 2}
    assert (values["k"], values["v"], values["c"]) == ("2", "0.0800", "0.0600")
    assert (values["predicted"], values["measured"], values["out of bag"]) == ("0.0700", "0.0701", "0.1234")
    assert "Averaging 2 members takes 12% off one member's brier error; the 75% that any two of them have in common" in shown.text
    assert ["best member", "0.0790"] in [[row[0].partition(",")[0], row[1]] for row in shown.rows if len(row) == 2]
    assert (values["nll of the average"], values["nll of the mean member"]) == ("0.2100", "0.2300")
    assert "The ensemble beats member 1" in shown.text
    assert "that member's error minus the ensemble's is 0.0089, 95% interval 0.0021 to 0.0155." in shown.text
    assert "It takes 102,468 parameters instead of 51,234, and 3,500 training steps instead of 1,700." in shown.text
    assert "Out of bag are 1,234 labelled training rows" in shown.text
    assert "56 that all members saw are left out. A member did not see 36.8% of the rows." in shown.text
    assert "Averaging" not in page(ensemble=None).text


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "beats"), (-0.1, 0.2, "cannot be told from"), (-0.2, -0.1, "is beaten by")]
)
def test_whether_the_ensemble_beats_its_best_member(low: float, high: float, verdict: str) -> None:
    best = {"member": 1, "error": 0.079, "ensemble_better": {"difference": (low + high) / 2, "low": low, "high": high, "level": 0.95}}
    ensemble = {**MEASURED["ensemble"], "best_member": best, "likelihood": None, "out_of_bag": None, "out_of_bag_rows": None}
    shown = page(ensemble=ensemble)
    assert f"The ensemble {verdict} member 1" in shown.text
    assert not {"Out of bag", "nll of the average"} & {row[0] for row in shown.rows if row}
    assert "Out of bag" not in shown.text


def test_masks_and_what_members_disagree_on() -> None:
    shown = page()
    assert ["mean of all masks", "0.9520", "0.4760", "0.2380", "0.1190"] in shown.rows
    assert ["weight scaling and mean of all masks", "0.0292"] in shown.rows
    assert ["1", "0.3100", "0.2100", "0.2100"] in shown.rows
    assert "Of all masks 0.0039, as a share, leave no path" in shown.text
    assert ["single", "0.4100", "0.4100", "–", "–"] in shown.rows
    assert ["ensemble", "0.4300", "0.3800", "0.0500", "0.9700"] in shown.rows
    bare = page(dropout={**MEASURED["dropout"], "convergence": None, "disconnected": None, "gaps": MEASURED["dropout"]["gaps"][:1]})
    assert "scatter" not in bare.text
    assert "no path" not in bare.text


def test_dropout_calibration_weights_and_invariance() -> None:
    shown = page()
    assert ["mean of 50 masks", "0.9480", "0.4740", "0.2370", "0.1185"] in shown.rows
    assert "geometric" not in shown.text
    assert "differ by 0.0321 on average" in shown.text
    assert ["ece, expected calibration error", "0.1200"] in shown.rows
    assert "temperature of 1.75: the model is too sure of itself" in shown.text
    assert ["l2", "0.0123"] in shown.rows
    assert ["hidden.0", "25.0%"] in shown.rows
    assert ["gaussian_noise", "0.0456"] in shown.rows
    assert ["0.1", "0.9100"] in shown.rows
    assert ["image", "4, 5, 6, … (4 numbers)", "2.5"] in shown.rows


def test_constant_inputs_and_units_at_an_end() -> None:
    shown = page()
    assert ["all constant inputs", "–", "0", "0.0625"] in shown.rows
    assert ["image [0, 3]", "7.25", "0", "0.0625"] in shown.rows
    assert ["zip", "0", "0", "0"] in shown.rows
    assert ["hidden.0", "tanh", "32.1%", "12.3%", "0.0%", "12.5%"] in shown.rows
    assert ["hidden.1", "relu", "–", "–", "50.0%", "25.0%"] in shown.rows
    bare = page(constant_features=None, activations=None)
    assert "constant" not in bare.text
    assert "Saturated" not in bare.text


def test_the_spec_is_there_but_for_endless_lists() -> None:
    text = page().text
    spec = json.loads(text[text.index('{\n  "dataset"') : text.rindex("}") + 1])
    assert spec["dataset"] == "digits"
    assert spec["split"]["test_rows"] == [*range(10), "… 5,000 in all"]


def test_a_model_of_which_little_is_known() -> None:
    bare = dict.fromkeys(("modes", "uncertainty", "ensemble", "dropout", "calibration", "early_stopping"))
    splits = {"train": classified(0.9), "validation": None, "test": None}
    shown = page(**bare, splits=splits, penalties={}, invariance={}, noise=None, normalization={}, members=MEASURED["members"][:1])
    assert ["train", "0.9000", "0.4500", "0.2250", "0.1125"] in shown.rows
    assert ["0", "7", "17", "early stopping"] in shown.rows
    assert not {"Ensemble", "Dropout", "Uncertainty", "Calibration", "Augmentation"} & set(re.findall(r"\w+", shown.text))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Robustness to noise and attacks: it takes a robustness job."),
        ({"splits": {"train": {}, "validation": {}, "test": None}}, "Rows never seen: the split has no test part."),
        ({"early_stopping": None}, "The best epoch: it was turned off, and the last weights were kept."),
        ({"members": MEASURED["members"][:1]}, "What averaging would save: there is one network."),
        ({"dropout": None}, "Dropout at prediction: the network was trained without it."),
    ],
)
def test_what_was_not_measured_is_said(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in unmeasured(MEASURED | changes, ABOUT["spec"])
    assert not changes or sentence not in unmeasured(MEASURED, ABOUT["spec"])
    assert sentence in page(**changes).text


def test_regression_without_noise_says_so() -> None:
    spec = {**ABOUT["spec"], "targets": [{"name": "size", "task": "regression", "loss": "mse"}]}
    assert any("the loss is mse" in sentence for sentence in unmeasured(MEASURED, spec))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.96667, "0.9667"),
        (-3.14159, "-3.142"),
        (123456.7, "123,457"),
        (0.000012, "1.2e-05"),
        (7, "7"),
        ("a", "a"),
    ],
)
def test_numbers(value: object, shown: str) -> None:
    assert number(value) == shown


def test_equal_reports_give_equal_bytes() -> None:
    assert render(MEASURED, {"reliability.svg": SVG}, ABOUT) == render(copy.deepcopy(MEASURED), {"reliability.svg": SVG}, ABOUT)
