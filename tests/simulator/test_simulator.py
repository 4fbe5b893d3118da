"""The promises P1 to P9 over a hundred thousand interleavings of real SQL."""

from contextlib import closing

import pytest

from tests.simulator import submitting
from tests.simulator.exploration import explore
from tests.simulator.schedule import Schedule
from tests.simulator.world import World

INTERLEAVINGS = 100_000


@pytest.mark.timeout(1200)
def test_no_interleaving_breaks_a_promise() -> None:
    report = explore(INTERLEAVINGS)  # one process: what it has seen of the database it need not ask again
    assert report.violations == []
    assert len(report.interleavings) >= INTERLEAVINGS
    assert report.executed > 10_000
    assert report.replays >= 0.9 * report.seeds / 500


def test_a_key_makes_one_job() -> None:
    assert submitting.submit(500) is None


def test_a_seed_is_one_interleaving() -> None:
    with closing(World()) as one, closing(World()) as two:
        for seed in range(20):
            Schedule(one, seed, storms=1.0).run()  # what a world remembers changes nothing
        for seed in range(40, 10, -1):
            assert Schedule(one, seed).run() == Schedule(two, seed).run()
