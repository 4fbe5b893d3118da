"""The model card: what is in the row and the report, nothing else, and no markup of the user's."""

import re
from typing import Any

import pytest

from service.inference.card import card, plain
from service.inference.robustness_result import interval

EVIL = "a|b`c`\n<script>[x](y)</script> *z*"
CLASSES = {"accuracy": 0.9, "nll": 0.31234567, "brier": 0.1, "ece": 0.02}
ROW: dict[str, Any] = {
    "id": "mdl_1", "name": "things", "version": 3, "sha256": "f" * 64, "created_at": 0.0, "parameters": 1234, "members": 2,
    "details": {"weights": [0.25, 0.75]},
    "signature": {"inputs": [{"name": EVIL, "shape": []}, {"name": "image", "shape": [8, 8]}]},
    "dataset": {"name": "things", "format": "csv", "rows": 300, "sha256": "e" * 64, "builtin": False},
    "spec": {
        "dataset": "things", "architecture": {"type": "mlp"}, "ensemble": {"bootstrap": True}, "seed": 5,
        "early_stopping": {"patience": 10},
        "split": {"validation": 0.2, "test": 0.1, "test_rows": None, "stratify": True, "seed": 0},
        "targets": [{"name": EVIL, "task": "classification"}], "labels": {"note": "```"},
    },
}  # fmt: skip
MEASURED: dict[str, Any] = {
    "splits": {"train": CLASSES, "validation": None, "test": CLASSES}, "rows": {"train": 210, "validation": 60, "test": 30},
    "modes": {"single": CLASSES, "ensemble": CLASSES}, "confusion_matrix": {"target": EVIL, "matrix": [[20, 1], [2, 7]]},
    "calibration": {"ece": 0.02}, "constant_features": None, "reconstruction": None, "robustness": None,
}  # fmt: skip
ROBUST = {
    "rows": 30, "split": "test", "mode": "ensemble", "clean": {"accuracy": 0.9, "low": 0.73, "high": 0.98}, "reliable": None, "reasons": [],
    "attacks": [{"type": "pgd", "curve": [{"epsilon": 0.5, "accuracy": 0.4, "low": 0.23, "high": 0.59}]},
                {"type": "blur", "curve": [{"severity": 2, "accuracy": 0.8, "low": 0.61, "high": 0.92}]}],
    "worst_case": [{"epsilon": 0.5, "accuracy": 0.4, "low": 0.23, "high": 0.59}],
}  # fmt: skip


def text(row: dict[str, Any] | None = None, measured: dict[str, Any] | None = None) -> str:
    return card({**ROW, **(row or {})}, {**MEASURED, **(measured or {})}).decode()


def test_a_card_has_what_is_known() -> None:
    said = text()
    low, high = interval(27, 30)
    for words in ("# things, version 3", "`mdl_1`", "f" * 64, "1970-01-01", "1,234 parameters a member", "2 members, bagged", "0.25, 0.75",
                  "300 rows", "210 train, 60 validation, 30 test", "validation 0.2", "| test | 0.9 | 0.3123 |",
                  f"27 of 30 rows, 95 % between {low:.4f} and {high:.4f}"):  # fmt: skip
        assert words in said.replace("\\_", "_"), words
    assert "Not measured." in said
    assert "Licence, intended use and those responsible: unknown." in said
    assert card(ROW, MEASURED) == card(ROW, MEASURED)


def test_nothing_of_the_users_is_markup() -> None:
    said = text()
    assert "<script" not in said
    assert plain(EVIL) in said
    assert "\n" not in plain(EVIL)
    for line in said.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (6, 7), "each table keeps its columns"
    (fenced,) = re.findall(r"```json\n(.*?)\n```", said, re.DOTALL)
    assert "`" not in fenced


def test_a_long_list_of_rows_is_not_shown() -> None:
    split = {"test_rows": list(range(5000)), "seed": 0}
    said = text({"spec": {**ROW["spec"], "split": split}})
    assert "5,000 in all" in said
    assert "4999" not in said


def test_robustness_comes_with_its_intervals() -> None:
    said = text(measured={"robustness": ROBUST})
    assert "| pgd | 0.5 | 0.4 | 0.23 | 0.59 |" in said
    assert "| blur | 2 | 0.8 | 0.61 | 0.92 |" in said
    assert "| worst of all | 0.5 | 0.4 | 0.23 | 0.59 |" in said
    assert "not every check ran" in said
    assert "Not measured." not in said
    assert "verified" not in said.lower()
    curve = [{"epsilon": 0.5, "accuracy": 0.3, "low": 0.15, "high": 0.49, "verified_error": 0.7}]
    verified = text(measured={"robustness": {**ROBUST, "certified": {"norm": "linf", "reason": None, "curve": curve}}})
    assert "| verified: any in linf | 0.5 | 0.3 | 0.15 | 0.49 |" in verified
    unbounded = text(measured={"robustness": {**ROBUST, "certified": {"norm": "linf", "reason": "no *intervals*", "curve": None}}})
    assert "Nothing is verified: no \\*intervals\\*." in unbounded
    distrusted = text(measured={"robustness": {**ROBUST, "reliable": False, "reasons": ["zero_gradients"]}})
    assert "not to be trusted: zero_gradients" in distrusted


def test_what_is_not_known_is_not_said() -> None:
    said = text({"dataset": None, "members": 1, "details": None}, {"splits": {"train": CLASSES}, "modes": None, "confusion_matrix": None,
                "rows": None, "calibration": None})  # fmt: skip
    assert "no longer stored" in said
    assert "weighted" not in said
    assert "There was no test part" in said
    assert "Clopper" not in said
    assert "Intervals of these figures were not computed" in said


@pytest.mark.parametrize("share", [0.0625, None])
def test_a_detector_of_anomalies_has_its_threshold(share: float | None) -> None:
    found = {"false_alarm_rate": 0.05, "threshold": 1.25, "test": share}
    said = text(measured={"reconstruction": {"anomaly": found}})
    assert "5% false alarms: error above 1.25" in said
    assert ("6.25% of the test rows" in said) == (share is not None)
