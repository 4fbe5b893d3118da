"""Mixed rows: one share and one partner for inputs and labels, shares from Beta, and weights that are pixel fractions."""

import numpy as np
import pytest
import torch
from scipy import stats

from service.tricks.augmenting import Augmented
from service.tricks.mixing import CutMix, Mixup, shares
from service.tricks.streams import Draws, row_keys
from service.tricks.transforms import Blend

CLASSES = 4
N = 40


def applied(*transforms, x, labels, rows=None, seeds=(3,), epoch=0):  # type: ignore[no-untyped-def]
    rows = torch.arange(len(x)) if rows is None else rows
    return Augmented(transforms, seeds, classes={"label": CLASSES})(x, labels, rows, epoch=epoch)


def one_pixel_per_row() -> torch.Tensor:
    """Rows [N, N] whose inputs tell which rows are in them, and how much of each."""
    return torch.eye(N)


def test_inputs_and_labels_have_one_share_and_one_partner() -> None:
    labels = torch.arange(N) % CLASSES
    x, found = applied(Mixup(alpha=1.0), x=one_pixel_per_row(), labels={"label": labels, "row": torch.arange(N).float().unsqueeze(1)})
    torch.testing.assert_close(found["label"], x @ torch.nn.functional.one_hot(labels, CLASSES).float())
    torch.testing.assert_close(found["row"], x @ torch.arange(N).float().unsqueeze(1))
    torch.testing.assert_close(found["label"].sum(-1), torch.ones(N))
    assert (x > 0).sum(1).max() == 2
    assert float(x.diagonal().std()) > 0.2


def test_a_share_of_one_is_the_identity() -> None:
    x, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[1.0], [np.nan], [3.0], [4.0], [np.nan]])
    blend = Blend(torch.tensor([1, 2, 3, 4, 0]), torch.ones(5))
    assert torch.equal(blend.inputs(x), x)
    torch.testing.assert_close(blend.labels(labels), labels, rtol=0, atol=0, equal_nan=True)
    other = Blend(blend.partner, torch.zeros(5))
    assert torch.equal(other.inputs(x), x[blend.partner])
    torch.testing.assert_close(other.labels(labels), labels[blend.partner], rtol=0, atol=0, equal_nan=True)
    y, kept = applied(Mixup(probability=0.0), x=x, labels={"label": torch.tensor([0, 1, 2, 3, -1])})
    assert torch.equal(y, x)
    assert torch.equal(kept["label"][:4], torch.eye(4))


@pytest.mark.parametrize("alpha", [0.001, 0.2, 1.0, 8.0, 1000.0])
def test_shares_are_those_of_the_beta_distribution(alpha: float) -> None:
    even = (np.arange(20_000) + 0.5) / 20_000
    found = shares(alpha, even)
    assert (np.diff(found) > -1e-300).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.mean() == pytest.approx(0.5, abs=1e-4)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)
    drawn = shares(alpha, Draws(row_keys([0], np.arange(4000)[None], epoch=0, place=0)).uniform(1)[:, 0])
    if alpha >= 0.2:
        assert stats.kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 1e-3
    assert np.isfinite(shares(alpha, np.array([0.0, 1 - 2**-53]))).all()


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (6, 6, 3)], ids=str)
def test_cutmix_weighs_labels_by_the_exact_share_of_pixels(shape: tuple[int, ...]) -> None:
    x = torch.arange(float(N)).view(-1, *[1] * len(shape)).expand(N, *shape)
    y, labels = applied(CutMix(), x=x, labels={"row": torch.arange(float(N)).unsqueeze(1), "label": torch.arange(N) % CLASSES})
    pixels = y.flatten(1)
    own = (pixels == torch.arange(float(N)).unsqueeze(1)).double().mean(1)
    other = torch.stack([row[row != i][0] if (row != i).any() else torch.tensor(float(i)) for i, row in enumerate(pixels)])
    torch.testing.assert_close(labels["row"][:, 0].double(), own * torch.arange(N) + (1 - own) * other, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(labels["label"].sum(-1), torch.ones(N))
    assert 0.2 < float(own.mean()) < 0.9
    assert float(own.std()) > 0.1


def test_cutmix_keeps_its_area_inside_and_loses_some_at_the_border() -> None:
    """The box has the area 1 - lambda of the image where nothing is cut, and less where the border cuts it."""
    rows = 4000
    x = torch.arange(float(rows)).view(-1, 1, 1).expand(rows, 40, 40)
    draws = Draws(row_keys([3], np.arange(rows)[None], epoch=0, place=0))
    lam = shares(1.0, draws.uniform(3)[:, 0])
    kept = CutMix().blend((40, 40), draws).share.double().numpy()
    assert (1 - kept <= 1 - lam + 1e-9).all()
    whole = np.floor(np.sqrt(1 - lam) * 40) ** 2 / 1600
    assert np.isclose(1 - kept, whole).mean() > 0.1
    assert len(x) == rows


def test_missing_labels_are_missing_in_the_mix() -> None:
    labels = torch.full((N,), 2)
    labels[::3] = -1
    numbers = torch.ones(N, 2)
    numbers[::4, 1] = np.nan
    x, found = applied(Mixup(alpha=5.0), x=one_pixel_per_row(), labels={"label": labels, "size": numbers})
    for i in range(N):
        (partner,) = [j for j in range(N) if j != i and x[i, j] > 0]
        assert bool(found["label"][i].isnan().all()) == (i % 3 == 0 or partner % 3 == 0)
        assert bool(found["size"][i].isnan().any()) == (i % 4 == 0 or partner % 4 == 0)


def test_members_mix_within_their_own_batches() -> None:
    x = torch.stack([one_pixel_per_row(), one_pixel_per_row()])
    rows = torch.stack([torch.arange(N), torch.randperm(500, generator=torch.Generator().manual_seed(0))[:N]])
    labels = {"label": torch.arange(2 * N).view(2, N) % CLASSES}
    together = applied(CutMix(), Mixup(), x=x.view(2, N, 8, 5), labels=labels, rows=rows, seeds=(3, 4))
    for k in range(2):
        alone = applied(CutMix(), Mixup(), x=x[k].view(N, 8, 5), labels={"label": labels["label"][k]}, rows=rows[k], seeds=(3 + k,))
        assert torch.equal(alone[0], together[0][k])
        assert torch.equal(alone[1]["label"], together[1]["label"][k])
