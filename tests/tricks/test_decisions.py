"""Decisions: thresholds against a search through all of them, costs against the expectation."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from service.tricks.decisions import Costs, Threshold, best_threshold, decide, decision_flaws


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=30
    )
)
def test_the_threshold_is_the_best_of_all(rows: list[tuple[float, int]]) -> None:
    p, y = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = best_threshold(p, y)
    if len(set(y.tolist())) < 2:
        assert found is None
        return
    assert found is not None
    # At any threshold the rows said to be of the second class are those from some value on, or none.
    choices = [*p.tolist(), np.nextafter(p.max(), 2)]

    def score(threshold: float) -> float:
        return float(balanced_accuracy_score(y, (p >= threshold).astype(int)))

    best = max(score(threshold) for threshold in choices if threshold <= 1)
    decided = decide(torch.tensor(np.stack([1 - p, p], 1)), Threshold(threshold=found)).numpy()
    assert balanced_accuracy_score(y, decided) == pytest.approx(best, abs=1e-12)
    assert 0 <= found <= 1


def test_of_equal_thresholds_the_nearest_to_a_half_is_taken() -> None:
    assert best_threshold(np.array([0.1, 0.2, 0.45, 0.6, 0.9]), np.array([0, 0, 0, 1, 1])) == pytest.approx(0.525)
    assert best_threshold(np.array([0.1, 0.2]), np.array([0, 1])) == pytest.approx(0.15)
    assert best_threshold(np.array([0.0, 5e-324]), np.array([0, 1])) == 5e-324, "nothing lies between"


def test_costs_choose_what_costs_least_on_average() -> None:
    p = torch.rand(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    costs = np.array([[0.0, 1, 4], [2, 0, 1], [9, 3, -1]])
    decided = decide(p, Costs.model_validate({"costs": costs.tolist()})).numpy()
    expected = [[float((row * costs[:, said]).sum()) for said in range(3)] for row in p.numpy()]
    assert decided.tolist() == np.argmin(expected, axis=1).tolist()
    assert len(set(decided.tolist())) > 1


def test_equal_costs_of_errors_are_the_most_probable_class() -> None:
    p = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    costs = Costs.model_validate({"costs": (1 - np.eye(4)).tolist()})
    assert torch.equal(decide(p, costs), decide(p, "argmax"))


def test_a_threshold_that_was_never_chosen_is_the_most_probable_class() -> None:
    p = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]])
    assert decide(p, Threshold(threshold="validation")).tolist() == [0, 0, 1]
    assert decide(p, Threshold(threshold=0.4)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("decision", "classes", "pointer"),
    [
        (Threshold(threshold=0.5), 3, "/decision/threshold"),
        (Costs.model_validate({"costs": [[0, 1], [1, 0]]}), 3, "/decision/costs"),
        (Costs.model_validate({"costs": [[0, 1], [1]]}), 2, "/decision/costs"),
        (Costs.model_validate({"costs": []}), 2, "/decision/costs"),
    ],
)
def test_a_decision_among_other_classes_is_refused(decision: Any, classes: int, pointer: str) -> None:
    assert [flaw.pointer for flaw in decision_flaws(decision, classes)] == [pointer]
    assert not list(decision_flaws("argmax", classes))
