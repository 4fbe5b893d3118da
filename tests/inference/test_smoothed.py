"""The smoothed classifier: its bound is Clopper and Pearson's, its radius that of a linear model, its noise each row's own."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from service.errors import Invalid
from service.inference.asking import ask
from service.inference.smoothed import check_smoothing, copy_keys, smooth
from service.tricks.certification import SELECTION, Smoothing, lower_bound
from service.tricks.modes import Asking
from service.tricks.streams import Draws

PHI = NormalDist()


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    for draws in (1, 10, 1000, 100_000):
        for hits in sorted({0, 1, draws // 2, draws - 1, draws}):
            for alpha in (0.001, 0.05, 0.5):
                found = lower_bound(hits, draws, alpha)
                assert found == pytest.approx(stats.beta.ppf(alpha, hits, draws - hits + 1) if hits else 0.0, rel=1e-9)
                exact = stats.binomtest(hits, draws, alternative="greater").proportion_ci(1 - alpha, "exact").low
                assert found == pytest.approx(exact, rel=1e-6, abs=1e-12)
    assert lower_bound(1000, 1000, 0.001) == pytest.approx(0.001 ** (1 / 1000), rel=1e-12)


def test_a_certificate_is_its_formula_and_has_a_ceiling() -> None:
    smoothing = Smoothing(sigma=0.25, n=1000)
    found = [smoothing.certificate(hits) for hits in range(400, 1001, 20)]
    radii = [radius for _, radius in found if radius is not None]
    assert radii == sorted(radii)
    for least, radius in found:
        assert (radius is None) == (least <= 0.5)
        assert radius is None or radius == pytest.approx(0.25 * stats.norm.ppf(least), rel=1e-9)
    assert radii[-1] == pytest.approx(2.463 * 0.25, abs=1e-3)
    assert Smoothing(sigma=1.0, n=100_000).certificate(100_000)[1] == pytest.approx(3.811, abs=1e-3)


def binary(bench: Any, **fields: Any) -> tuple[Any, Tensor, float]:
    """A linear model whose third class never wins; the weight of its margin in raw units, and the bias."""
    model = bench.model(**fields)
    head = model.networks[0].heads[0]
    with torch.no_grad():
        head.bias[2] = -1e9
        # Normalized inputs are (x - 0.5) / 2.
        weight = (head.weight[0] - head.weight[1])[:4] / 2
        return model, weight, float(head.bias[0] - head.bias[1] - (weight * 0.5).sum())


def test_of_a_linear_model_the_radius_is_the_distance_to_the_boundary(bench: Any) -> None:
    """From below, and near it with many copies; never above it but for alpha of the rows."""
    model, weight, bias = binary(bench)
    x, sigma = bench.inputs(40), 2.0
    distances = ((x @ weight + bias) / weight.norm()).abs()
    smoothing = Smoothing(sigma=sigma, n=5000)
    found = smooth(model, x, Asking().axes(model), smoothing)["kind"]
    clean = ask(model, x, Asking().axes(model))["kind"].prediction
    near, clear = 0, distances > 0.3 * sigma
    for row, (distance, radius, said, least) in enumerate(
        zip(distances.tolist(), found["radius"], found["prediction"], found["probability_lower"], strict=True)
    ):
        assert radius is None or radius <= distance
        assert radius is None or said == "abc"[int(clean[row])]
        if not clear[row]:  # the first hundred copies may choose the other class
            continue
        # What the bound would be were the count its mean, the probability being that of a normal variable.
        p = PHI.cdf(distance / sigma)
        assert least == pytest.approx(lower_bound(round(5000 * p), 5000, 0.001), abs=5 * (p * (1 - p) / 5000) ** 0.5 + 1e-3)
        near += radius is not None and radius > 0.85 * distance
    assert near > 20


def test_a_radius_is_too_large_no_oftener_than_alpha(bench: Any) -> None:
    """Over fresh noise of one row: at most as often as was asked for, and with alpha .2 nearly as often, since k is whole."""
    model, weight, bias = binary(bench)
    x = bench.inputs(1)
    distance = float(((x @ weight + bias) / weight.norm()).abs())
    smoothing = Smoothing(sigma=distance, n=200, alpha=0.2)
    beyond = 0
    for seed in range(200):
        (radius,) = smooth(model, x, Asking(seed=seed).axes(model), smoothing)["kind"]["radius"]
        beyond += radius is not None and radius > distance
    assert stats.binomtest(beyond, 200, 0.2, alternative="greater").pvalue > 1e-4
    assert beyond > 10


@pytest.mark.parametrize("asked", [{}, {"members": "all"}, {"members": "all", "combine": "vote"}, {"members": 1}], ids=str)
def test_neighbours_and_places_do_not_change_a_row(bench: Any, asked: dict[str, Any]) -> None:
    model, x, smoothing = bench.model(hidden=[6], size=3), bench.inputs(6), Smoothing(sigma=0.5, n=300)
    axes = Asking.model_validate(asked).axes(model)
    whole = smooth(model, x, axes, smoothing)["kind"]
    back = smooth(model, x.flip(0), axes, smoothing)["kind"]
    for name in ("prediction", "radius", "probability_lower"):
        assert back[name] == whole[name][::-1]
        assert smooth(model, x[2:3], axes, smoothing)["kind"][name] == whole[name][2:3]
    other = smooth(model, x, axes._replace(seed=1), smoothing)["kind"]
    assert other["probability_lower"] != whole["probability_lower"]


def test_copies_are_normal_and_rows_independent(bench: Any) -> None:
    x = bench.inputs(2)
    noise = [Draws(copy_keys(row.unsqueeze(0), 0, 5000)[None]).normal(4, torch.device("cpu"), std=2.0).numpy() for row in x]
    for drawn in noise:
        assert stats.kstest(drawn.ravel() / 2, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06
        assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(noise[0][:, 0], noise[1][:, 0])[0, 1]) < 0.06
    chosen, rest = copy_keys(x[:1], 0, 300)[:SELECTION], copy_keys(x[:1], 0, 300)[SELECTION:]
    assert not np.intersect1d(chosen, rest).size, "the copies that estimate are fresh"


def test_categories_get_no_noise(bench: Any) -> None:
    """A class that depends on a category alone is as sure as so many copies can be, however large the noise."""
    model = bench.model(encoding=bench.encoding(2, [["u", "v", "w"]]))
    head = model.networks[0].heads[0]
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, 2:] = 10 * torch.eye(3)
    x = torch.cat([bench.inputs(3, 2), torch.eye(3)], dim=1)
    found = smooth(model, x, Asking().axes(model), Smoothing(sigma=1e3, n=50))["kind"]
    assert found["prediction"] == ["a", "b", "c"]
    assert found["probability_lower"] == [pytest.approx(0.001 ** (1 / 50))] * 3


def test_where_classes_are_as_probable_it_abstains(bench: Any) -> None:
    model, weight, bias = binary(bench)
    x = bench.inputs(1)
    on_boundary = x - ((x @ weight + bias) / weight.square().sum()).unsqueeze(-1) * weight
    found = smooth(model, on_boundary, Asking().axes(model), Smoothing(sigma=1.0, n=1000))["kind"]
    assert found["prediction"] == [None]
    assert found["radius"] == [None]
    assert found["probability_lower"][0] < 0.5


def test_without_a_smoothed_classifier_it_is_refused(bench: Any) -> None:
    number = bench.model({"task": "regression", "name": "size"})
    dropped = bench.model(hidden=[6], dropout=0.3)
    named = bench.model(encoding=bench.encoding(0, [["u", "v"]]))
    for model, asked, word in ((number, {}, "number"), (dropped, {"dropout": "monte_carlo"}, "weight_scaled"), (named, {}, "categories")):
        with pytest.raises(Invalid) as found:
            check_smoothing(model, Asking.model_validate(asked).axes(model))
        assert [(flaw.pointer, flaw.code) for flaw in found.value.flaws] == [("/smoothing", "inconsistent-spec")]
        assert word in found.value.flaws[0].message
    check_smoothing(dropped, Asking(mode="weight_scaled").axes(dropped))


def test_noise_beyond_the_range_of_numbers_is_refused(bench: Any) -> None:
    model = bench.model(hidden=[6, 6])
    with torch.no_grad():
        for parameter in model.networks[0].parameters():
            parameter.mul_(1e9)
    with pytest.raises(Invalid) as found:
        smooth(model, bench.inputs(1), Asking().axes(model), Smoothing(sigma=1e30, n=10))
    assert [(flaw.pointer, flaw.code) for flaw in found.value.flaws] == [("/smoothing/sigma", "non-finite")]
