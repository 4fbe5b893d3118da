"""Fresh masks: bits that follow from a row, a seed, a member, a site and a sample, and look like chance in each."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from service.inference import masks
from service.inference.masks import digests, fresh_masks, keys
from service.tricks.dropout import Site
from service.tricks.modes import Axes
from service.tricks.streams import mix

AXES = Axes("monte_carlo", (0,), "best", "monte_carlo", "arithmetic", 50, 0, "model")
SITE = Site("hidden.0", 64, 0.5)
RATES = [0.005, 0.05, 0.2, 0.5, 0.8, 0.999]
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(seed: int, count: int) -> list[int]:
    """The published generator, in integers without a bound."""
    found, whole = [], 2**64 - 1
    for _ in range(count):
        seed = (seed + GOLDEN) & whole
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & whole
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
        found.append(z ^ (z >> 31))
    return found


def rows(count: int, features: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def kept(x: Tensor, samples: int, *, site: Site = SITE, seed: int = 0, member: int = 0) -> NDArray[np.float64]:
    """Standardized bits [S, N, units]."""
    own = keys(digests(x), AXES._replace(seed=seed), member, site)
    bits = (fresh_masks(own, site, range(samples)) > 0).double().numpy()
    return np.asarray((bits - bits.mean()) / bits.std())


def test_the_mixer_is_that_of_splitmix64() -> None:
    """The outputs from seed 1234567 that others publish, and random states."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(1234567, 5) == published
    for seed in (1234567, 0, 2**64 - 1, 0x123456789ABCDEF0):
        states = np.array([(seed + i * GOLDEN) % 2**64 for i in range(1, 6)], dtype=np.uint64)
        assert mix(states).tolist() == splitmix64(seed, 5)


@pytest.mark.parametrize("units", [1, 3, 4, 7, 64])
def test_masks_are_cut_from_the_keys_own_sequence(units: int) -> None:
    site, words = Site("input", units, 0.3), -(-units // 4)
    own = keys(digests(rows(3)), AXES, 0, site)
    found = fresh_masks(own, site, range(5))
    assert found.shape == (5, 3, units)
    dropped = round(0.3 * 2**16)
    for n, key in enumerate(own.tolist()):
        sequence = np.array(splitmix64(key, 5 * words), dtype=np.uint64).view(np.int16).reshape(5, -1)[:, :units]
        expected = np.where(sequence >= dropped - 2**15, 2**16 / (2**16 - dropped), 0.0)
        np.testing.assert_allclose(found[:, n].numpy(), expected, rtol=1e-7)


def test_samples_and_rows_may_be_taken_in_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site("input", 7, 0.3)
    own = keys(digests(rows(6)), AXES, 0, site)
    whole = fresh_masks(own, site, range(20))
    assert torch.equal(torch.cat([fresh_masks(own, site, range(a, b)) for a, b in ((0, 3), (3, 4), (4, 20))]), whole)
    assert torch.equal(torch.cat([fresh_masks(own[:2], site, range(20)), fresh_masks(own[2:], site, range(20))], dim=1), whole)
    precise = fresh_masks(own, site, range(20), torch.float64)
    assert precise.unique().tolist() == [0.0, 2**16 / (2**16 - round(0.3 * 2**16))]
    assert torch.equal(precise > 0, whole > 0)
    for words in (1, 13, 50):
        monkeypatch.setattr(masks, "BLOCK_WORDS", words)
        assert torch.equal(fresh_masks(own, site, range(20)), whole)


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_and_the_mean(rate: float) -> None:
    site, exact = Site("hidden.0", 101, rate), round(rate * 2**16) / 2**16
    mask = fresh_masks(keys(digests(rows(40)), AXES, 0, site), site, range(100)).double()
    assert abs(float((mask == 0).double().mean()) - exact) < 4 * (exact * (1 - exact) / mask.numel()) ** 0.5
    assert abs(float(mask.mean()) - 1) < 4 * (exact / (1 - exact) / mask.numel()) ** 0.5
    assert set(mask.unique().tolist()) == {0.0, float(mask.max())}
    assert float(mask.max()) == pytest.approx(1 / (1 - exact), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_unit_at_a_rate_of_its_own_is_that_unit_where_all_have_the_rate(dtype: torch.dtype) -> None:
    rates = (0.5, 0.0, 0.2, 0.999, 1e-9)
    site = Site("hidden.0", 5, rates)
    own = keys(digests(rows(9)), AXES, 0, site)
    mask = fresh_masks(own, site, range(40), dtype)
    for unit, rate in enumerate(rates):
        assert torch.equal(mask[..., unit], fresh_masks(own, site._replace(rate=rate), range(40), dtype)[..., unit])
    assert bool((mask[..., 1] == 1).all())


def test_counts_of_kept_units_are_binomial() -> None:
    """By unit, by row and by sample: variances are neither larger nor smaller than chance has them."""
    site = Site("hidden.0", 64, 0.5)
    bits = (fresh_masks(keys(digests(rows(60)), AXES, 0, site), site, range(50)) > 0).double().numpy()
    for axes in ((0, 1), (0, 2), (1, 2), (0,), (1,), (2,)):
        counts, n = bits.sum(axes).ravel(), np.prod([bits.shape[axis] for axis in axes])
        statistic = ((counts - n / 2) ** 2 / (n / 4)).sum()
        assert 1e-4 < stats.chi2.sf(statistic, len(counts)) < 1 - 1e-4, axes


def test_pieces_of_words_are_uniform() -> None:
    """Each of the four pieces, its high and its low byte: 256 cells, of keys that follow from similar rows."""
    x = torch.zeros(400, 4)
    x[:, 1] = torch.arange(400) * 1e-3
    own = keys(digests(x), AXES, 0, SITE)
    counters = np.arange(1, 501, dtype=np.uint64) * np.uint64(GOLDEN)
    pieces = mix(own[:, None] + counters).view(np.uint16).reshape(-1, 4)
    for piece in pieces.T:
        for byte in (piece >> 8, piece & 255):
            assert 1e-4 < stats.chisquare(np.bincount(byte, minlength=256)).pvalue < 1 - 1e-4


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["samples", "rows", "units"])
def test_samples_rows_and_units_are_independent(axis: int) -> None:
    """Rows that lie close together: each differs from the last in one entry."""
    x = torch.zeros(70, 4)
    x[:, 2] = torch.arange(70)
    z = np.moveaxis(kept(x, 60), axis, 0)
    for lag in (*range(1, 9), 31, 50):
        pairs = z[lag:] * z[:-lag]
        assert abs(pairs.mean()) < 5 / pairs.size**0.5, lag
    flat = z.reshape(len(z), -1)
    correlations = flat @ flat.T / flat.shape[1] - np.eye(len(z))
    assert np.abs(correlations - np.diag(np.diag(correlations))).max() < 6 / flat.shape[1] ** 0.5


OTHERS: dict[str, dict[str, Any]] = {
    "another seed": {"seed": 1},
    "a far seed": {"seed": 2**63 - 1},
    "another member": {"member": 1},
    "another site": {"site": Site("hidden.1", 64, 0.5)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_seeds_members_and_sites_are_independent(name: str) -> None:
    x = rows(60)
    first, other = kept(x, 40), kept(x, 40, **OTHERS[name])
    assert abs((first * other).mean()) < 4 / first.size**0.5
    assert abs((first[1:] * other[:-1]).mean()) < 4 / first[1:].size ** 0.5
    assert abs((first[:, 1:] * other[:, :-1]).mean()) < 4 / first[:, 1:].size ** 0.5
    np.testing.assert_array_equal(first, kept(x, 40))


def test_the_last_bit_of_a_number_is_another_row() -> None:
    x = rows(1).repeat(2, 1)
    x[1, 3] = torch.nextafter(x[0, 3], torch.tensor(torch.inf))
    found = kept(x, 100)
    assert abs((found[:, 0] * found[:, 1]).mean()) < 4 / found[:, 0].size ** 0.5


def test_a_digest_is_of_the_numbers() -> None:
    """Neither of their precision, nor of the sign of a zero, nor of where they lie in memory."""
    x = rows(12)
    x[3, 2] = 0.0
    signed = x.clone()
    signed[3, 2] = -0.0
    assert len(set(digests(x).tolist())) == 12
    for same in (x.double(), signed, x.T.contiguous().T, x.view(12, 2, 4)):
        assert digests(same).tolist() == digests(x).tolist()
