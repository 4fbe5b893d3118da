"""Members: their bootstrap samples and their seeds."""

import numpy as np
import pytest
from pydantic import ValidationError

from service.tricks.bagging import Ensemble

N = 100
TRAIN = np.arange(1000, 1000 + 3 * N, 3)
PURPOSES = ("init", "order", "masks", "augmentation", "bootstrap")


def test_a_bootstrap_sample_is_as_large_as_the_training_set() -> None:
    rows = Ensemble(size=3, bootstrap=True).rows(1, TRAIN, seed=0)
    assert len(rows) == N
    assert np.isin(rows, TRAIN).all()
    assert len(np.unique(rows)) < N, "drawn with replacement"


def test_the_share_out_of_bag_is_that_of_the_formula() -> None:
    members = 400
    ensemble = Ensemble(size=members, bootstrap=True)
    counts = np.stack([np.bincount(np.searchsorted(TRAIN, ensemble.rows(i, TRAIN, seed=0)), minlength=N) for i in range(members)])
    expected = (1 - 1 / N) ** N
    # Rows of one sample are negatively correlated, so that the binomial bound is on the safe side.
    assert abs((counts == 0).mean() - expected) < 4 * (expected * (1 - expected) / (members * N)) ** 0.5
    # Every row is drawn once in the mean, with a multinomial's spread.
    assert np.abs(counts.mean(0) - 1).max() < 5 * ((1 - 1 / N) / members) ** 0.5
    assert abs(counts.var() - (1 - 1 / N)) < 0.05


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 50), (0.001, 1), (0.996, 100)])
@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_fraction_of_the_rows(fraction: float, count: int, bootstrap: bool) -> None:
    rows = Ensemble(size=2, bootstrap=bootstrap, fraction=fraction).rows(0, TRAIN, seed=0)
    assert len(rows) == count
    assert bootstrap or len(np.unique(rows)) == count


def test_a_deep_ensemble_trains_on_all_rows() -> None:
    ensemble = Ensemble(size=5)
    assert all(np.array_equal(ensemble.rows(i, TRAIN, seed=0), TRAIN) for i in range(5))


def test_members_do_not_depend_on_how_many_there_are() -> None:
    few, many = Ensemble(size=3, bootstrap=True), Ensemble(size=30, bootstrap=True)
    assert np.array_equal(few.rows(2, TRAIN, seed=7), many.rows(2, TRAIN, seed=7))
    assert all(few.seed(2, purpose, seed=7) == many.seed(2, purpose, seed=7) for purpose in PURPOSES)


def test_every_stream_of_every_member_is_its_own() -> None:
    ensemble = Ensemble(size=5)
    seeds = {(seed, i, purpose): ensemble.seed(i, purpose, seed=seed) for seed in (0, 1) for i in range(5) for purpose in PURPOSES}
    assert len(set(seeds.values())) == len(seeds)
    samples = [tuple(Ensemble(size=5, bootstrap=True).rows(i, TRAIN, seed=seed)) for seed in (0, 1) for i in range(5)]
    assert len(set(samples)) == len(samples)


def test_equal_seeds_make_equal_members() -> None:
    ensemble = Ensemble(size=3, bootstrap=True, seeds=(4, 9, 4))
    first, other, twin = (ensemble.rows(i, TRAIN, seed=0) for i in range(3))
    assert np.array_equal(first, twin)
    assert not np.array_equal(first, other)
    for purpose in PURPOSES:
        assert ensemble.seed(0, purpose, seed=0) == ensemble.seed(2, purpose, seed=0)
        assert ensemble.seed(0, purpose, seed=0) == ensemble.seed(0, purpose, seed=1), "the job's seed has no part in it"
        assert ensemble.seed(0, purpose, seed=0) != ensemble.seed(1, purpose, seed=0)


def test_one_seed_for_each_member() -> None:
    with pytest.raises(ValidationError, match="2 seeds for 3 members"):
        Ensemble(size=3, seeds=(1, 2))
