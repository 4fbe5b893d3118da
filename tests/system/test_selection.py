"""A small sweep in one job: members that vary, chosen on validation, weighed in answers."""

import re
from typing import Any

import numpy as np
import pytest

from tests.system.desk import Desk

SWEEP: dict[str, Any] = {
    "name": "sweep",
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [16]},
    "regularizers": [{"type": "l2", "alpha": 1e-4}],
    "epochs": 4,
    "ensemble": {
        "size": 4,
        "selection": "greedy",
        "vary": {"learning_rate": [1e-5, 0.01], "dropout": [0.0, 0.0, 0.3], "alpha": [0.0, 1e-3]},
    },
}


@pytest.fixture(scope="module")
def job(desk: Desk) -> Any:
    return desk.run(SWEEP)


def test_members_say_what_they_had_and_selection_what_it_took(desk: Desk, job: Any) -> None:
    report = desk.report(job)
    assert [member["vary"] for member in report["members"]] == [
        {"learning_rate": 1e-5, "dropout": 0.0, "alpha": 0.0},
        {"learning_rate": 0.01, "dropout": 0.0, "alpha": 1e-3},
        {"learning_rate": 1e-5, "dropout": 0.3, "alpha": 0.0},
        {"learning_rate": 0.01, "dropout": 0.0, "alpha": 1e-3},
    ]
    found = report["selection"]
    counts = [sum(step["member"] == i for step in found["steps"]) for i in range(4)]
    assert found["weights"] == pytest.approx([count / len(found["steps"]) for count in counts])
    assert found["weights"][0] == found["weights"][2] == 0, "who has hardly learnt is not taken"
    for part in ("validation", "test"):
        assert found[part]["after"]["loss"] < found[part]["before"]["loss"]
        assert report["splits"][part] == found[part]["after"], "the default is what was selected"
    assert report["ensemble"]["k"] == 4
    assert report["dropout"] is None, "the best member has none"
    description = desk.http.get(f"/api/v1/models/{job['model']}/files/encoding.json").json()
    assert description["weights"] == found["weights"]
    assert description["numbers"] == [0, 1, 2, 3]
    assert desk.http.get(f"/api/v1/models/{job['model']}").json()["weights"] == found["weights"]


def test_each_member_has_its_learning_rates_series(desk: Desk, job: Any) -> None:
    for member, rate in enumerate([1e-5, 0.01, 1e-5, 0.01]):
        series = desk.http.get(f"/api/v1/jobs/{job['id']}/metrics", params={"member": member, "name": "learning_rate"}).json()
        assert set(series["value"]) == {rate}, series


def test_weights_of_a_request(desk: Desk, job: Any) -> None:
    weights = desk.report(job)["selection"]["weights"]
    inputs, _ = desk.rows("digits", "image", 0, 5)

    def asked(**fields: Any) -> Any:
        answer = desk.predict(job["model"], inputs, **fields)
        return np.array(answer["targets"]["label"]["probabilities"])

    each = np.stack([asked(members=i) for i in range(4)])
    np.testing.assert_allclose(asked(), np.tensordot(weights, each, 1), rtol=1e-6)
    np.testing.assert_allclose(asked(weights="model"), asked(), rtol=1e-12)
    np.testing.assert_allclose(asked(weights="equal"), each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(asked(weights=[1, 0, 0, 3]), 0.25 * each[0] + 0.75 * each[3], rtol=1e-6)
    refused = desk.http.post(f"/api/v1/models/{job['model']}/predict", json={"inputs": inputs, "weights": [1, 2]})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/weights")


def test_the_reports_page_shows_what_members_had_and_weigh(desk: Desk, job: Any) -> None:
    page = desk.http.get(f"/api/v1/models/{job['model']}/report.html").text
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", page[page.index(">Members<") :])
    assert heads[:5] == ["member", "learning rate", "dropout", "alpha", "weight"]
