"""Splits: every row in one part, as many as were asked for, and no leak."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import TemperError
from service.tricks.splits import GIVEN, Columns, Parts, Split, draw, sizes

shares = st.none() | st.floats(0, 0.45)


def complete(parts: Parts, rows: int) -> None:
    """Every row is in exactly one part, parts ascend."""
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


def counts(parts: Parts) -> dict[str, int]:
    return {name: len(part) for name, part in parts._asdict().items()}


@settings(deadline=None, max_examples=150)
@given(rows=st.integers(8, 200), validation=shares, test=shares, seed=st.integers(0, 5), strata=st.integers(0, 5), data=st.data())
def test_every_row_is_in_one_part(rows: int, validation: float | None, test: float | None, seed: int, strata: int, data: Any) -> None:
    listed = data.draw(st.lists(st.integers(0, rows - 1), max_size=3, unique=True))
    split = Split.model_validate({"validation": validation, "test": test, "seed": seed, "test_rows": listed or None})
    codes = np.arange(rows) % strata if strata else None
    if sizes(split, rows, None)["train"] < 1:
        with pytest.raises(TemperError):
            draw(split, rows, Columns(strata=codes))
        return
    parts = draw(split, rows, Columns(strata=codes))
    complete(parts, rows)
    assert set(listed) <= set(parts.test.tolist())
    assert counts(parts) == sizes(split, rows, None), "what validation of a spec promised"


def test_naming_no_part_makes_both() -> None:
    assert counts(draw(Split(seed=3), 100, Columns())) == {"train": 70, "validation": 15, "test": 15}
    assert counts(draw(Split(test=0.2), 100, Columns())) == {"train": 80, "validation": 0, "test": 20}
    assert counts(draw(Split(validation=0.001), 100, Columns())) == {"train": 99, "validation": 1, "test": 0}
    assert counts(draw(Split(validation=0.0, test=0.5), 100, Columns())) == {"train": 50, "validation": 0, "test": 50}


def test_test_is_drawn_first() -> None:
    alone, both = draw(Split(test=0.2, seed=4), 100, Columns()), draw(Split(test=0.2, validation=0.3, seed=4), 100, Columns())
    assert np.array_equal(alone.test, both.test)


def test_the_seed_decides() -> None:
    first, again, other = (draw(Split(seed=seed), 200, Columns()) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.test, other.test)


def test_rows_are_drawn_evenly() -> None:
    hits = sum(np.bincount(draw(Split(test=0.25, seed=seed), 40, Columns()).test, minlength=40) for seed in range(400))
    assert np.abs(hits - 100).max() < 5 * (400 * 0.25 * 0.75) ** 0.5


@settings(deadline=None, max_examples=50)
@given(sizes_=st.lists(st.integers(4, 40), min_size=2, max_size=5), seed=st.integers(0, 5))
def test_strata_keep_their_shares(sizes_: list[int], seed: int) -> None:
    codes = np.repeat(np.arange(len(sizes_)), sizes_)
    parts = draw(Split(validation=0.2, test=0.25, seed=seed), len(codes), Columns(strata=codes))
    share = len(parts.test) / len(codes)
    assert all(abs((codes[parts.test] == code).sum() - share * size) < 1 for code, size in enumerate(sizes_))
    left = np.delete(codes, parts.test)
    share = len(parts.validation) / len(left)
    assert all(abs((codes[parts.validation] == code).sum() - share * (left == code).sum()) < 1 for code in range(len(sizes_)))


def test_strata_are_left_alone_when_told() -> None:
    codes = np.repeat([0, 1], 500)
    found = {
        int((codes[draw(Split(test=0.2, seed=seed, stratify=False), 1000, Columns(strata=codes)).test] == 1).sum()) for seed in range(10)
    }
    assert len(found) > 1
    assert {int((codes[draw(Split(test=0.2, seed=seed), 1000, Columns(strata=codes)).test] == 1).sum()) for seed in range(10)} == {100}


@settings(deadline=None, max_examples=80)
@given(groups=st.lists(st.integers(0, 9), min_size=6, max_size=60).filter(lambda g: len(set(g)) >= 3), seed=st.integers(0, 5))
def test_no_group_is_in_two_parts(groups: list[int], seed: int) -> None:
    codes = np.array(groups)
    parts = draw(Split(group="patient", validation=0.15, test=0.15, seed=seed), len(codes), Columns(groups=codes))
    complete(parts, len(codes))
    held = [set(codes[part].tolist()) for part in parts]
    assert sum(map(len, held)) == len(set(groups))
    assert all(held), "each part has a group"


@pytest.mark.parametrize("groups", [1, 2])
def test_too_few_groups_leave_something_to_train_on_or_are_refused(groups: int) -> None:
    codes = np.arange(20) % groups
    try:
        parts = draw(Split(group="patient", validation=0.15, test=0.15), 20, Columns(groups=codes))
    except TemperError:
        return
    assert len(parts.train), "no group is left to train on, and nobody said so"


def test_listed_rows_may_not_tear_a_group_apart() -> None:
    codes = np.repeat(np.arange(5), 4)
    whole = draw(Split(group="patient", test_rows=(0, 1, 2, 3), validation=0.2), 20, Columns(groups=codes))
    assert whole.test.tolist() == [0, 1, 2, 3]
    with pytest.raises(TemperError, match="share a group"):
        draw(Split(group="patient", test_rows=(0, 1, 2), validation=0.2), 20, Columns(groups=codes))


def test_test_is_the_newest() -> None:
    times = np.random.default_rng(0).permutation(100).astype(float)
    parts = draw(Split(time="day", validation=0.2, test=0.1), 100, Columns(times=times))
    complete(parts, 100)
    assert times[parts.train].max() < times[parts.validation].min()
    assert times[parts.validation].max() < times[parts.test].min()
    assert counts(parts) == {"train": 72, "validation": 18, "test": 10} or counts(parts) == {"train": 70, "validation": 20, "test": 10}


def test_a_row_without_a_time_is_not_the_newest() -> None:
    times = np.arange(20.0)
    times[3] = np.nan
    parts = draw(Split(time="day", test=0.25), 20, Columns(times=times))
    assert parts.test.tolist() == [15, 16, 17, 18, 19]


def test_parts_of_the_dataset_are_taken_as_they_are() -> None:
    codes = np.array([0, 2, 1, 0, 0, 2, 1, 0], dtype=np.int8)
    parts = draw(GIVEN, 8, Columns(parts=codes))
    assert [part.tolist() for part in parts] == [[0, 3, 4, 7], [2, 6], [1, 5]]


def test_validation_is_drawn_from_the_given_training_rows() -> None:
    codes = np.repeat(np.array([0, 2], dtype=np.int8), [80, 20])
    strata = np.arange(100) % 4
    parts = draw(GIVEN, 100, Columns(parts=codes, strata=strata))
    complete(parts, 100)
    assert parts.test.tolist() == list(range(80, 100))
    assert counts(parts) == sizes(GIVEN, 100, {"train": 80, "test": 20})
    assert np.bincount(strata[parts.validation]).tolist() == [3, 3, 3, 3]
