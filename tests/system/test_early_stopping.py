"""Early stopping three ways over HTTP, on a linear regression whose validation curve is a U."""

from typing import Any

import pytest

from benchmarks import early_stopping
from tests.system.desk import Desk


@pytest.fixture(scope="module")
def done(desk: Desk) -> Any:
    """The jobs of the three ways."""
    early_stopping.upload(desk.http)
    return early_stopping.jobs(desk.http)


@pytest.mark.parametrize("look", early_stopping.LOOKS, ids=lambda look: look.__name__)
def test_what_was_looked_at_is_what_it_had_to_be(desk: Desk, done: Any, look: Any) -> None:
    """The best epoch; exactly i* steps again; the threshold or the cap, and which; ridge along each direction."""
    assert [check for check in look(desk.http, done) if not check.holds] == []


def test_the_report_shows_what_followed(desk: Desk, done: Any) -> None:
    page = desk.http.get(f"/api/v1/models/{done['retrain']['model']}/report.html").text
    assert "Then training began anew, on validation rows too" in page
    picture = desk.http.get(f"/api/v1/models/{done['threshold']['model']}/plots/learning_curves.svg").text
    for part in ("train-again-member-0", "validation-again-member-0", "stopped", "threshold"):
        assert f'id="{part}"' in picture
    assert done["retrain"]["progress"]["fraction"] == 1.0
    assert done["retrain"]["best"]["metric"] == "validation.loss", "the first phase's: the second has nothing to be compared on"


def test_the_estimate_counts_the_second_phase(desk: Desk) -> None:
    """100 rows in batches of 25: 60 of them train, 3 steps an epoch, in the end all, 4 steps."""

    def steps(**stopping: Any) -> int:
        wanted = early_stopping.spec(early_stopping=stopping, batch_size=25, epochs=50)
        return int(desk.http.post("/api/v1/jobs:validate", json=wanted).json()["steps"])

    first = steps()
    assert first == 50 * 3
    assert steps(then="retrain") == first + first
    assert steps(then="retrain", retrain_by="epochs") == first + 50 * 4
    assert steps(then="continue") == first + 50 * 4
    assert steps(then="continue", cap_epochs=7) == first + 7 * 4


def test_choices_that_change_nothing_are_told(desk: Desk) -> None:
    wanted = early_stopping.spec(early_stopping={"cap_epochs": 7, "retrain_by": "epochs"})
    found = desk.http.post("/api/v1/jobs:validate", json=wanted).json()["warnings"]
    assert {(each["pointer"], each["code"]) for each in found} == {
        ("/early_stopping/cap_epochs", "unused-choice"), ("/early_stopping/retrain_by", "unused-choice"),
    }  # fmt: skip
