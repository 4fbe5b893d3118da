"""Streams of rows: numbers that follow from seed, epoch, transform and row, and look like chance in each of them."""

import numpy as np
import pytest
import torch
from scipy import stats

from service.tricks.streams import GOLDEN, Draws, mix, row_keys

N, ENTRIES = 4000, 50
ROWS = np.arange(N)[None]


def draws(seed: int = 0, *, epoch: int = 0, place: int = 0, rows: np.ndarray = ROWS) -> Draws:
    return Draws(row_keys([seed] * len(rows), rows, epoch=epoch, place=place))


def test_keys_are_outputs_of_splitmix64_twice() -> None:
    """Of the seed at 64 epochs + place, and of that at the row: computed here in integers without a bound."""
    whole, golden = 2**64, int(GOLDEN)

    def output(state: int, at: int) -> int:
        return int(mix(np.array([(state + (at + 1) * golden) % whole], dtype=np.uint64))[0])

    keys = row_keys([7, 2**63 - 1], np.array([[0, 5], [10**9, 5]]), epoch=3, place=2)
    for k, seed in enumerate((7, 2**63 - 1)):
        for b, row in enumerate(((0, 5), (10**9, 5))[k]):
            assert int(keys[k, b]) == output(output(seed, 64 * 3 + 2), row)


def test_numbers_follow_from_the_row_alone() -> None:
    """Whatever the batch, the order, and the members beside it."""
    whole = draws(3)
    chosen = np.random.default_rng(0).permutation(N)[:37]
    some = draws(3, rows=chosen[None])
    assert np.array_equal(some.uniform(3), whole.uniform(3)[chosen])
    assert torch.equal(some.normal(ENTRIES, torch.device("cpu")), whole.normal(ENTRIES, torch.device("cpu"))[chosen])
    assert np.array_equal(some.chosen(0.3), whole.chosen(0.3)[chosen])
    for row in (0, 17, N - 1):
        one = draws(3, rows=np.array([[row]]))
        assert torch.equal(one.normal(7, torch.device("cpu"))[0], whole.normal(ENTRIES, torch.device("cpu"))[row, :7])
    both = Draws(row_keys([3, 4], np.stack([ROWS[0], ROWS[0]]), epoch=0, place=0))
    assert np.array_equal(both.uniform(2), np.concatenate([whole.uniform(2), draws(4).uniform(2)]))


OTHERS = [{"seed": 1}, {"epoch": 1}, {"epoch": 63}, {"place": 1}, {"place": 63}, {"rows": ROWS + N}, {"rows": ROWS + 2**40}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_seeds_epochs_places_and_rows_are_independent(other: dict[str, object]) -> None:
    first = draws().normal(ENTRIES, torch.device("cpu")).double()
    second = draws(**other).normal(ENTRIES, torch.device("cpu")).double()  # type: ignore[arg-type]
    for noise in (first * second, first * first.roll(1, 0), first * first.roll(1, 1)):
        assert abs(float(noise.mean())) < 4.5 / noise.numel() ** 0.5


def test_numbers_are_normal_and_uniform() -> None:
    z, u = draws(1).normal(ENTRIES, torch.device("cpu")).double().numpy().ravel(), draws(2).uniform(ENTRIES).ravel()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(stats.kurtosis(z)) < 5 * (24 / len(z)) ** 0.5
    assert np.isfinite(z).all()
    assert u.min() >= 0
    assert u.max() < 1


def test_the_levels_of_the_normal_numbers_lie_evenly_about_zero() -> None:
    """What makes E[noise] = 0 exact: with every word its complement gives the opposite number."""

    class Given(Draws):
        def __init__(self, words: np.ndarray) -> None:
            super().__init__(words)
            self.words = words

        def _words(self, start: int, count: int) -> np.ndarray:
            return self.words

    words = np.random.default_rng(0).integers(0, 2**64, (1, 5000), dtype=np.uint64)
    ends = np.array([[0x7FFFFFFF7FFFFFFF, 0x8000000080000000, 0, 2**64 - 1]], dtype=np.uint64)
    for given in (words, ends):
        z, opposite = (Given(each).normal(2 * given.shape[1], torch.device("cpu")) for each in (given, ~given))
        assert torch.equal(z, -opposite)
        assert torch.isfinite(z).all()
        assert (z != 0).all()


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_partners_are_a_ring_of_the_batch(batch: int) -> None:
    rows = np.stack([np.random.default_rng(k).permutation(1000)[:batch] for k in range(3)])
    found = Draws(row_keys([1, 2, 3], rows, epoch=0, place=0)).partners().reshape(3, batch)
    for k, own in enumerate(found - batch * np.arange(3)[:, None]):
        at, seen = 0, []
        for _ in range(batch):
            seen.append(at)
            at = int(own[at])
        assert sorted(seen) == list(range(batch)), "one ring through all rows"
        assert at == 0
        order = np.random.default_rng(9).permutation(batch)
        again = Draws(row_keys([k + 1], rows[k][order][None], epoch=0, place=0)).partners()
        pairs = dict(zip(rows[k], rows[k][own], strict=True))
        assert {rows[k][order][i]: rows[k][order][j] for i, j in enumerate(again)} == pairs, "the order of the batch does not matter"
