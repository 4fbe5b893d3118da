"""The report page's robustness: every figure of a result is on it, in place of the sentence that says there is none."""

import copy
from typing import Any

import pytest

from service.inference.report_page import render, with_robustness
from tests.inference.test_report_page import ABOUT, EVIL, MEASURED, SVG, Page


def point(epsilon: float, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"epsilon": epsilon, "accuracy": accuracy, "low": accuracy - 0.0501, "high": accuracy + 0.0402, "zero_gradients": None, **more}


RUNGS = {"uniform_noise": 0.8801, "fgsm": 0.5203, "pgd": 0.4105, "apgd": 0.3907, "square": 0.3709}
FOUND: dict[str, Any] = {
    "rows": 1234, "split": "test", "mode": "ensemble", "reliable": False, "reasons": ["zero_gradients"],
    "clean": {"accuracy": 0.9123, "low": 0.8912, "high": 0.9312}, "worst_case": [point(0.0, 0.9123), point(0.25, 0.3512)],
    "attacks": [
        {"type": "pgd", "norm": "linf", "loss": "cross_entropy", "curve": [point(0.0, 0.9123), point(0.25, 0.4444, zero_gradients=0.125)]},
        {"type": "pgd", "norm": "linf", "loss": "margin", "source": {"members": 2}, "curve": [point(0.0, 0.9123), point(0.25, 0.4666)]},
        {"type": "ladder", "norm": "l2", "curve": [point(0.0, 0.9123), point(0.25, 0.3709, rungs=RUNGS)]},
        {"type": "blur", "curve": [{"severity": s, "accuracy": 0.9 - s / 1000, "low": 0.1, "high": 0.99} for s in range(1, 6)]},
    ],
    "per_row": {
        "row": [0, 1, 2, 3], "label": ["cat", "cat", EVIL, EVIL], "broken_at": [0.25, None, 0.0, 0.25], "broken_by": ["pgd"] * 4,
        "perturbation": [0.21, None, None, 0.23], "nearest_other": [0.77, None, None, 0.13], "distance": [0.111, None, None, 0.113],
    },
    "certified": {
        "method": "interval_bounds", "norm": "linf", "reason": None, "per_row": [None] * 4,
        "curve": [point(0.0, 0.9101, verified_error=0.0899), point(0.25, 0.2101, verified_error=0.7899)],
    },
    "transfer": {
        "epsilon": 0.25, "members": [0, 2], "accuracy": [[0.111, 0.222], [0.333, 0.444]], "together": [0.555, 0.666], "direct": 0.077,
    },
    "checks": [
        {"name": "zero_gradients", "passed": False, "value": 0.125, "message": "share of rows without a gradient"},
        {"name": "converged", "passed": True, "value": 0.0123, "message": "more steps find no more"},
    ],
}  # fmt: skip


STORED = render(MEASURED, {}, ABOUT)


def shown(**change: Any) -> Page:
    return Page(with_robustness(STORED, {**copy.deepcopy(FOUND), **change}, SVG))


def test_every_figure_is_on_the_page() -> None:
    said = shown().text
    for word in (
        "NOT reliable", "Failed: zero_gradients.", "1,234 rows of test, mode ensemble", "0.9123 [0.8912, 0.9312]",
        "pgd linf cross entropy", "0.4444", "12.5%", "pgd linf margin through member 2", "0.4666", "worst of all", "0.3512",
        "0.3011", "0.3914",
        "after fgsm", *(str(left) for left in RUNGS.values()), "blur", "severity 5", "0.8950",
        "FAILED", "held", "0.0123", "verified error", "0.7899", "0.2101 [0.1600, 0.2503]", "1 of 2 broken rows", "0.2200", "0.1120",
        "made on member 2", "0.3330", "0.6660", "0.0770", "transfer: accuracy at epsilon 0.25",
    ):  # fmt: skip
        assert word in said, word
    rows = shown().rows
    assert ["cat", "2", "1", "0.5000"] in rows
    assert [EVIL, "2", "0.5000", "0"] in rows


def test_it_stands_where_the_page_said_that_there_was_none() -> None:
    before, after = Page(STORED), shown()
    assert "it takes a robustness job" in before.text
    assert "it takes a robustness job" not in after.text
    assert after.text.index("Under attack") < after.text.index("In detail")
    assert after.tags.count("section") == before.tags.count("section") + 6


@pytest.mark.parametrize("cut", ['<section class="wide"><h2>In detail</h2>', "</main>", "</body>"])
def test_pages_of_older_releases_get_it_too(cut: str) -> None:
    """Whose places and words may be others."""
    old = STORED.decode()
    for place in ('<section class="wide"><h2>In detail</h2>', "</main>", "</body>"):
        if place == cut:
            break
        old = old.replace(place, "")
    made = with_robustness(old.replace("Robustness to noise and attacks", "Robustness").encode(), FOUND, None).decode()
    assert made.index("Under attack") < made.index(cut)


def test_what_a_result_does_not_have_is_left_out() -> None:
    """Of a stopped job, of corruption alone, and of an older release."""
    bare = shown(
        reliable=None, reasons=[], checks=[], certified=None, transfer=None, per_row={"broken_at": [None]}, attacks=FOUND["attacks"][:1]
    )
    assert "Not every check ran" in bare.text
    for word in ("Failed:", "Robustness checks", "Certified", "Everyday corruption", "How far rows were moved", "worst of all, by class"):
        assert word not in bare.text, word
    refused = shown(certified={"norm": "linf", "reason": "masks are averaged", "curve": None, "per_row": None})
    assert "Nothing is verified: masks are averaged." in refused.text
    alone = shown(attacks=FOUND["attacks"][3:], worst_case=[])
    assert "Nothing but corruption was asked for." in alone.text


def test_errors_of_numbers_stand_beside_their_bounds() -> None:
    curve = [{"epsilon": 0.0, "rmse": 1.0}, {"epsilon": 0.5, "rmse": 2.125}]
    bound = [{"epsilon": 0.0, "rmse": 1.0, "mse": 1.0, "mae": 0.875}, {"epsilon": 0.5, "rmse": None, "mse": None, "mae": None}]
    numbers = shown(
        clean={"rmse": 1.0}, worst_case=curve, attacks=[{"type": "pgd", "norm": "l2", "curve": curve}], per_row={"broken_at": [None]},
        certified={"norm": "linf", "reason": None, "curve": bound, "per_row": {"mae": [[0.875, None]], "mse": [[1.0, None]]}},
    )  # fmt: skip
    assert ["0.5", "1", "2.125", "–", "–"] in numbers.rows
    assert ["worst of all", "1", "2.125", "–"] in numbers.rows
