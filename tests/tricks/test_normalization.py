"""Normalization: the moments of the training rows, there and back again, and what constant features become."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.tricks.normalization import Moments, Preprocessing, Scope, moments

ROWS = np.arange(40)


def table(columns: int = 5, rows: int = 40, seed: int = 0) -> NDArray[np.float32]:
    """Columns of very different scales and offsets."""
    stream = np.random.default_rng(seed)
    return (stream.normal(size=(rows, columns)) * 10.0 ** stream.integers(-3, 4, columns) + stream.normal(size=columns)).astype(np.float32)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.integers(2, 60),
    cuts=st.sets(st.integers(1, 59), max_size=5),
    offset=st.sampled_from([0.0, 1.0, -1e4, 1e8]),
    seed=st.integers(0, 1000),
)
def test_moments_in_blocks_are_those_of_numpy(rows: int, cuts: set[int], offset: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, 3)) + offset
    found = Moments((0,))
    for block in np.split(x, sorted(cut for cut in cuts if cut < rows)):
        found.add(block)
    np.testing.assert_allclose(found.mean, x.mean(0, keepdims=True), rtol=1e-12, atol=1e-12)
    # The sum of squares over the mean, not the difference of two large ones: that loses 16 digits at an offset of 1e8.
    np.testing.assert_allclose(found.std, x.std(0, keepdims=True), rtol=1e-7 if offset == 1e8 else 1e-9)
    assert np.array_equal(found.low, x.min(0, keepdims=True))
    assert np.array_equal(found.high, x.max(0, keepdims=True))


def test_moments_see_the_chosen_rows_alone_of_more_than_one_block() -> None:
    x = np.random.default_rng(0).normal(50.0, 2.0, size=(12_000, 2))
    rows = np.sort(np.random.default_rng(1).choice(len(x), 9_000, replace=False))
    found = moments(x, rows, (0,))
    assert found.count == 9_000
    np.testing.assert_allclose(found.mean[0], x[rows].mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.std[0], x[rows].std(0), rtol=1e-12)


SCOPES: dict[Scope, dict[int, tuple[int, ...]]] = {
    "feature": {1: (0,), 2: (0,), 3: (0,)},
    "channel": {1: (0,), 2: (0, 1, 2), 3: (0, 1, 2)},
    "all": {1: (0, 1), 2: (0, 1, 2), 3: (0, 1, 2, 3)},
}


def test_every_scope_is_in_the_table() -> None:
    assert set(SCOPES) == set(get_args(Scope))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_shares_one_mean_and_scale(scope: Scope, rank: int) -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(40, 4, 5, 3)[: rank + 1]).astype(np.float32)
    axes = SCOPES[scope][rank]
    normalize = Preprocessing(per=scope).fit(x, ROWS, kind="tensor")
    torch.testing.assert_close(normalize.shift.double(), torch.from_numpy(x.astype(float).mean(axes, keepdims=True)[0]), rtol=1e-6, atol=0)
    torch.testing.assert_close(normalize.scale.double(), torch.from_numpy(x.astype(float).std(axes, keepdims=True)[0]), rtol=1e-6, atol=0)
    assert normalize(torch.from_numpy(x)).shape == x.shape


@pytest.mark.parametrize(
    ("kind", "dtype", "scope"),
    [
        ("table", "float32", "feature"),
        ("image", "uint8", "all"),
        ("tensor", "uint8", "all"),
        ("image", "float32", "channel"),
        ("tensor", "float32", "channel"),
    ],
)
def test_the_scope_follows_from_the_kind_of_input(kind: str, dtype: str, scope: Scope) -> None:
    assert Preprocessing().scope(kind, dtype) == scope
    assert Preprocessing(per="feature").scope(kind, dtype) == "feature"


def test_normalized_training_rows_have_mean_zero_and_variance_one() -> None:
    x = table(rows=500)
    z = Preprocessing().fit(x, np.arange(500), kind="table")(torch.from_numpy(x)).double()
    torch.testing.assert_close(z.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)


def test_minmax_spans_zero_to_one() -> None:
    x = table()
    z = Preprocessing(normalize="minmax").fit(x, ROWS, kind="table")(torch.from_numpy(x))
    torch.testing.assert_close(z.amin(0), torch.zeros(5), rtol=0, atol=0)
    torch.testing.assert_close(z.amax(0), torch.ones(5), rtol=1e-6, atol=0)


def test_none_leaves_every_bit() -> None:
    x = torch.from_numpy(table())
    normalize = Preprocessing(normalize="none").fit(x.numpy(), ROWS, kind="table")
    assert torch.equal(normalize(x), x)


@pytest.mark.parametrize("how", ["standard", "minmax"])
def test_only_training_rows_count_in_any_order(how: Any) -> None:
    x = table()
    rows = np.arange(0, 40, 2)
    first = Preprocessing(normalize=how).fit(x, rows, kind="table")
    x[1::2] = 1e9
    again = Preprocessing(normalize=how).fit(x, rows, kind="table")
    assert torch.equal(first.shift, again.shift)
    assert torch.equal(first.scale, again.scale)
    turned = Preprocessing(normalize=how).fit(x, rows[::-1].copy(), kind="table")
    torch.testing.assert_close(turned.shift, first.shift, rtol=1e-6, atol=0)
    torch.testing.assert_close(turned.scale, first.scale, rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), how=st.sampled_from(["standard", "minmax", "none"]))
def test_there_and_back_again(seed: int, how: Any) -> None:
    x = table(seed=seed)
    x[:, 2] = 7.25
    normalize = Preprocessing(normalize=how).fit(x, ROWS, kind="table")
    back = normalize(torch.from_numpy(x)) * normalize.scale + normalize.shift
    # A rounding each of the difference, the quotient, the product and the sum, relative to the largest of a column.
    error = (back - torch.from_numpy(x)).abs() / torch.from_numpy(np.abs(x).max(0))
    assert error.max() <= 4 * torch.finfo(torch.float32).eps
    assert torch.equal(back[:, 2], torch.full((40,), 7.25))


CONSTANTS = {
    "constant": np.full(40, 7.25),
    "zero": np.zeros(40),
    "rounding noise": 1e6 + np.tile([0.0, 0.0625], 20),
}


@pytest.mark.parametrize("how", ["standard", "minmax"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_feature_is_divided_by_one(name: str, how: Any) -> None:
    x = table()
    x[:, 1] = CONSTANTS[name]
    normalize = Preprocessing(normalize=how).fit(x, ROWS, kind="table")
    assert normalize.scale[1] == 1.0
    assert float(normalize.shift[1]) == pytest.approx(x[:, 1].mean() if how == "standard" else x[:, 1].min(), rel=1e-7)
    # A row that deviates counts as (x - mean), not as infinitely many standard deviations.
    deviating = torch.from_numpy(x[:1]).clone()
    deviating[0, 1] += 3.0
    assert float(normalize(deviating)[0, 1]) == pytest.approx(3.0, abs=0.2)


def test_a_small_spread_is_not_taken_for_none() -> None:
    x = table()
    x[:, 1] = 1e-30 * np.random.default_rng(0).normal(size=40)
    x[:, 2] = 1.0 + 1e-5 * np.random.default_rng(0).normal(size=40)
    z = Preprocessing().fit(x, ROWS, kind="table")(torch.from_numpy(x))
    torch.testing.assert_close(z[:, 1:3].std(0, correction=0), torch.ones(2), rtol=0.02, atol=0)


def test_one_hot_columns_stay_as_they_are() -> None:
    x = np.concatenate([table(3), np.eye(2, dtype=np.float32)[np.arange(40) % 2]], axis=1)
    for how in ("standard", "minmax", "none"):
        normalize = Preprocessing(normalize=how).fit(x, ROWS, kind="table", plain=2)
        assert torch.equal(normalize(torch.from_numpy(x))[:, 3:], torch.from_numpy(x[:, 3:]))
    alone = Preprocessing().fit(x[:, :3], ROWS, kind="table")
    assert torch.equal(Preprocessing().fit(x, ROWS, kind="table", plain=2).shift[:3], alone.shift)


def test_squared_errors_in_the_users_units_are_weighted_by_the_variance() -> None:
    x = table()
    guess = x + np.random.default_rng(1).normal(size=x.shape).astype(np.float32) * x.std(0)
    normalize = Preprocessing().fit(x, ROWS, kind="table")
    difference = (normalize(torch.from_numpy(x)) - normalize(torch.from_numpy(guess))).double()
    original = (torch.from_numpy(x) - torch.from_numpy(guess)).double().square().sum(1).mean()
    weighted = (normalize.scale.double().square() * difference.square()).sum(1).mean()
    assert float(weighted) == pytest.approx(float(original), rel=1e-5)


def test_a_change_of_unit_changes_nothing_behind_the_normalizer() -> None:
    x = table()
    scaled = x.copy()
    scaled[:, 3] *= 1024.0
    first, second = (Preprocessing().fit(each, ROWS, kind="table")(torch.from_numpy(each)) for each in (x, scaled))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
