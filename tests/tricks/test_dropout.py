"""Dropout masks: their mean, their rate, their independence; and what gates do with them."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.flaws import flaws_of
from service.nets.mlp import MLP
from service.tricks.dropout import SCALED, Dropout, Replayed, Sampled, Site, disconnected, draw_mask, draw_own_masks

RATES = [0.005, 0.05, 0.2, 0.5, 0.8, 0.999]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_and_the_mean(rate: float) -> None:
    mask = draw_mask((1000, 401), rate, stream()).double()
    count, exact = mask.numel(), round(rate * 2**16) / 2**16
    assert abs(exact - rate) <= 2**-17
    assert abs(float((mask == 0).double().mean()) - exact) < 4 * (exact * (1 - exact) / count) ** 0.5
    # The variance of mask / p_keep is drop / keep.
    assert abs(float(mask.mean()) - 1) < 4 * (exact / (1 - exact) / count) ** 0.5
    scale = float(mask.max())
    assert set(mask.unique().tolist()) == {0.0, scale}
    assert scale == pytest.approx(1 / (1 - exact), rel=1e-6)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_units_and_rows_are_independent(rate: float) -> None:
    """Pairs up to eight apart, over the words of four that masks are cut from, and the same unit of neighbouring rows."""
    kept = (draw_mask((2000, 203), rate, stream(1)) > 0).double()
    z = (kept - kept.mean()) / kept.std()
    for axis in (0, 1):
        for lag in (*range(1, 9), 50, 51):
            pairs = z.narrow(axis, lag, z.shape[axis] - lag) * z.narrow(axis, 0, z.shape[axis] - lag)
            assert abs(float(pairs.mean())) < 5 / pairs.numel() ** 0.5, (axis, lag)
    correlations = torch.corrcoef(z[:, :60].T) - torch.eye(60, dtype=z.dtype)
    assert float(correlations.abs().max()) < 6 / 2000**0.5


@pytest.mark.parametrize("rate", [1e-9, 2**-16, 1 - 2**-16, 1 - 1e-9])
def test_extreme_rates_stay_finite(rate: float) -> None:
    mask = draw_mask((100, 100), rate, stream())
    assert bool(mask.isfinite().all())
    assert float(mask.max()) <= 2.0**16


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 7), (2, 3, 5)])
def test_any_number_of_units(shape: tuple[int, ...]) -> None:
    assert draw_mask(shape, 0.5, stream()).shape == shape
    assert draw_mask(shape, 0.5, stream()).dtype == torch.float32


def test_rate_zero_is_no_dropout_bit_by_bit() -> None:
    x = torch.randn(5, 4, generator=stream())
    generator = stream()
    before = generator.get_state()
    assert Sampled([generator], 5)(x, Site("input", 4, 0.0)) is x
    assert torch.equal(generator.get_state(), before), "nothing is drawn where nothing is dropped"
    assert bool((draw_mask((50, 50), 0.0, stream()) == 1).all())


def test_sampled_draws_a_mask_per_row_and_unit_from_its_stream() -> None:
    x = torch.randn(64, 32, generator=stream())
    site = Site("hidden.0", 32, 0.5)
    generator = stream(3)
    gate = Sampled([generator], 64)
    first, second = gate(x, site), gate(x, site)
    assert torch.equal(first, Sampled([stream(3)], 64)(x, site))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0] == 0, first[1] == 0)
    assert torch.equal(first, x * draw_mask(x.shape, 0.5, stream(3)))


def test_weight_scaling_is_the_identity_of_the_inverted_convention() -> None:
    x = torch.randn(5, 4)
    assert SCALED(x, Site("input", 4, 0.5)) is x


def test_replayed_masks_put_their_axis_in_front() -> None:
    x = torch.randn(5, 4, generator=stream())
    masks = draw_mask((3, 1, 4), 0.5, stream())
    gate = Replayed({"input": masks})
    found = gate(x, Site("input", 4, 0.5))
    assert found.shape == (3, 5, 4)
    assert all(torch.equal(found[s], x * masks[s]) for s in range(3))
    assert gate(x, Site("hidden.0", 4, 0.5)) is x, "a site without a mask is left alone"


def test_one_rate_stands_for_all_layers() -> None:
    assert Dropout.model_validate({"hidden": 0.5}).hidden_rates(3) == (0.5, 0.5, 0.5)
    assert Dropout.model_validate({"hidden": [0.1, 0.2]}).hidden_rates(2) == (0.1, 0.2)


def test_masks_at_rates_of_their_own_are_those_of_each_rate() -> None:
    """Streams included: nothing is drawn for a rate of 0."""
    rates = (0.5, 0.0, 0.2, 1e-9)
    mine, theirs = [stream(i) for i in range(4)], [stream(i) for i in range(4)]
    masks = draw_own_masks((7, 13), rates, mine)
    for own, rate, generator in zip(masks, rates, theirs, strict=True):
        assert torch.equal(own, draw_mask((7, 13), rate, generator) if rate else torch.ones(7, 13))
    assert [each.get_state().tolist() for each in mine] == [each.get_state().tolist() for each in theirs]


UNEQUAL = (0.005, 0.5, 0.0, 0.2, 0.999, 0.8)


def test_each_unit_has_its_rate_and_a_mean_of_one() -> None:
    count = 40_000
    mask = draw_mask((count, len(UNEQUAL)), UNEQUAL, stream(2)).double()
    for unit, rate in zip(mask.T, UNEQUAL, strict=True):
        exact = round(rate * 2**16) / 2**16
        assert abs(float((unit == 0).double().mean()) - exact) <= 4 * (exact * (1 - exact) / count) ** 0.5
        assert abs(float(unit.mean()) - 1) <= 4 * (exact / (1 - exact) / count) ** 0.5
        assert float(unit.max()) == pytest.approx(1 / (1 - exact), rel=1e-6)
    correlations = torch.corrcoef(mask[:, [0, 1, 3, 5]].T) - torch.eye(4, dtype=mask.dtype)
    assert float(correlations.abs().max()) < 5 / count**0.5


@pytest.mark.parametrize("shape", [(7, 6), (300, 5, 6)])
def test_a_rate_for_each_unit_is_the_one_rate_where_all_are_equal(shape: tuple[int, ...]) -> None:
    """Bit by bit; and what a stack draws at a member's rates is what they draw alone."""
    mask = draw_mask(shape, UNEQUAL, stream(3))
    for rate in (0.3, 0.5, 0.25):
        assert torch.equal(draw_mask(shape, (rate,) * 6, stream(3)), draw_mask(shape, rate, stream(3)))
    stacked = draw_own_masks(shape, [UNEQUAL, 0.0, 0.3], [stream(3), stream(4), stream(5)])
    assert torch.equal(stacked[0], mask)
    assert torch.equal(stacked[2], draw_mask(shape, 0.3, stream(5)))
    assert bool((stacked[1] == 1).all())


def test_rates_of_zero_for_all_units_are_no_dropout_bit_by_bit() -> None:
    (rate,) = Dropout.model_validate({"hidden": [[0.0] * 4]}).hidden_rates(1)
    x, generator = torch.randn(5, 4, generator=stream()), stream()
    before = generator.get_state()
    assert Sampled([generator], 5)(x, Site("hidden.0", 4, rate)) is x
    assert torch.equal(generator.get_state(), before)
    assert not MLP.model_validate({"hidden": [4], "dropout": {"hidden": [[0.0] * 4]}}).drops


def test_masks_of_units_go_on_from_a_checkpoint_in_the_middle() -> None:
    site, x = Site("hidden.0", 6, UNEQUAL), torch.ones(8, 6)
    generator = stream(5)
    gate = Sampled([generator], 8)
    for _ in range(21):
        gate(x, site)
    held, state = gate.capture(), generator.get_state()
    rest = [gate(x, site) for _ in range(20)]
    again = Sampled([other := stream(0)], 8)
    again.restore(held, [site])
    other.set_state(state)
    assert all(torch.equal(again(x, site), mask) for mask in rest)


def test_a_list_of_equal_rates_is_their_one_rate() -> None:
    dropout = Dropout.model_validate({"hidden": [[0.5, 0.5], 0.2, [0.1, 0.3], [0, 0]]})
    assert dropout.hidden_rates(4) == (0.5, 0.2, (0.1, 0.3), 0.0)
    assert dropout.dump()["hidden"] == [[0.5, 0.5], 0.2, [0.1, 0.3], [0.0, 0.0]], "the spec says what was sent"


REFUSED = {
    "too few layers": ([0.1], "/dropout/hidden", "inconsistent-spec"),
    "too few units": ([0.1, [0.2, 0.3]], "/dropout/hidden/1", "inconsistent-spec"),
    "too many units": ([[0.1] * 4, 0.1], "/dropout/hidden/0", "inconsistent-spec"),
    "no unit": ([[], 0.1], "/dropout/hidden/0", "inconsistent-spec"),
    "a rate of one": ([0.1, [0.2, 0.3, 1.0]], "/dropout/hidden/1/2", "value-out-of-range"),
    "a word": ([0.1, [0.2, "half", 0.1]], "/dropout/hidden/1/1", "wrong-type"),
    "a list in a list of units": ([0.1, [0.2, [0.1], 0.1]], "/dropout/hidden/1/1", "wrong-type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rates_that_do_not_fit_are_refused_at_their_place(name: str) -> None:
    rates, pointer, code = REFUSED[name]
    sent = {"hidden": [3, 3], "dropout": {"hidden": rates}}
    with pytest.raises(ValidationError) as refused:
        MLP.model_validate(sent)
    (flaw,) = flaws_of(refused.value, sent, model=MLP)
    assert (flaw.pointer, flaw.code) == (pointer, code)


LAYOUTS = [
    [("input", 3, 0.2), ("hidden.0", 4, 0.5)],
    [("input", 3, (0.2, 0.9, 0.6)), ("hidden.0", 3, 0.5), ("hidden.1", 2, (0.0, 0.3))],
    [("input", 2, 0.0), ("hidden.0", 3, 0.7), ("hidden.1", 2, 0.4)],
    [("hidden.0", 1, 0.9)],
    [("input", 4, 0.0)],
    [],
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_share_of_masks_without_a_path_is_that_of_the_enumeration(layout: list[tuple[str, int, float]]) -> None:
    """Every mask of a dense net with weights of one: without a path nothing arrives at the output."""
    sites = [Site(*each) for each in layout]
    lost = 0.0
    for kept in itertools.product((0, 1), repeat=sum(site.units for site in sites)):
        arrives, share, at = np.ones(2), 1.0, 0
        for site in sites:
            part = np.array(kept[at : at + site.units])
            at += site.units
            share *= float(np.prod(np.where(part, 1 - site.rates, site.rates)))
            arrives = np.full(site.units, arrives.sum()) * part
        lost += share * (arrives.sum() == 0)
    assert disconnected(sites) == pytest.approx(lost, rel=1e-12, abs=1e-15)


def test_wide_layers_are_hardly_ever_lost() -> None:
    assert disconnected([Site("hidden.0", 10, 0.5), Site("hidden.1", 10, 0.5)]) == pytest.approx(1 - (1 - 2**-10) ** 2, rel=1e-12)
    assert disconnected([Site("hidden.0", 60, 0.5)]) == pytest.approx(2.0**-60, rel=1e-12), "not rounded away beside 1"
    assert disconnected([Site("hidden.0", 5000, 0.5)]) == 0.0
