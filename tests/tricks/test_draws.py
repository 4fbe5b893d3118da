"""Streams of rows: what a row gets depends on its number and the seed alone, and looks like what it is to be."""

from typing import Any

import pytest
import torch
from torch import Tensor

from service.tricks.draws import Common, OfRows

ROWS = 400


def streams(seed: int = 0, numbers: Tensor | None = None) -> OfRows:
    return OfRows.numbered(seed, torch.arange(ROWS) if numbers is None else numbers)


ASKED: dict[str, Any] = {
    "uniform": lambda draws, n: draws.uniform((n, 5, 3), -2.0, 1.0),
    "normal": lambda draws, n: draws.normal((n, 7)),
    "signs": lambda draws, n: draws.signs((n, 3, 30)),
    "below": lambda draws, n: draws.below(11, (n,)),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_row_gets_its_own_whoever_is_beside_it(name: str) -> None:
    ask, some = ASKED[name], torch.tensor([3, 17, 399, 0])
    whole, few = streams(), streams(numbers=some)
    first = ask(whole, ROWS)
    assert torch.equal(ask(few, 4), first[some])
    assert torch.equal(ask(whole.only(some), 4), ask(few, 4)), "a stream goes on from where it was"
    assert not torch.equal(ask(few, 4), first[some]), "and gives other numbers then"
    assert not torch.equal(ask(streams(1), ROWS), first)


@pytest.mark.parametrize("draws", [streams(), Common(torch.Generator().manual_seed(0))], ids=["of rows", "common"])
def test_numbers_are_distributed_as_they_say(draws: Any) -> None:
    """Means and variances within five standard errors, of 40,000 numbers each."""
    count = 100 * ROWS
    uniform, normal, signs = draws.uniform((ROWS, 100), -2.0, 1.0), draws.normal((ROWS, 100)), draws.signs((ROWS, 100))
    for found, mean, variance, fourth in ((uniform, -0.5, 0.75, 1.0125), (normal, 0.0, 1.0, 3.0), (signs, 0.0, 1.0, 1.0)):
        assert abs(float(found.mean()) - mean) < 5 * (variance / count) ** 0.5
        assert abs(float((found - mean).square().mean()) - variance) < 5 * max((fourth - variance**2) / count, 1e-12) ** 0.5 + 1e-6
    assert (float(uniform.min()) >= -2, float(uniform.max()) <= 1) == (True, True)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    counts = torch.bincount(draws.below(7, (ROWS, 100)).flatten(), minlength=7)
    assert len(counts) == 7
    assert float(((counts - count / 7) ** 2 / (count / 7)).sum()) < 30, "chi squared of six degrees"


def test_rows_and_places_of_a_stream_are_uncorrelated() -> None:
    numbers = streams().normal((ROWS, ROWS)).double()
    for found in (numbers @ numbers.T, numbers.T @ numbers):
        apart = found - torch.diag(found.diagonal())
        assert float(apart.abs().max()) / ROWS < 6 / ROWS**0.5
