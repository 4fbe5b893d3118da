"""What becomes of labels in a loss: weights, smoothing, focus, shares, quantiles, against torch, scikit-learn and closed forms."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from service.flaws import flaws_of
from service.tricks.multitask import Classification, Regression, SoftLabels, Target, mean_loss
from service.tricks.targets import Distribution

N, C = 30, 4
NAMES = tuple("abcd")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(seed: int = 0, members: int | None = None) -> Tensor:
    return torch.randn(*([members] if members else []), N, C, generator=stream(seed), dtype=torch.float64) * 2


def classes(seed: int = 1) -> Tensor:
    return torch.randint(C, (N,), generator=stream(seed))


def shares(seed: int = 2) -> Tensor:
    return torch.randn(N, C, generator=stream(seed), dtype=torch.float64).softmax(-1)


def weighted(weights: Any, **fields: Any) -> Classification:
    return Classification(name="y", class_weights=weights, **fields).fitted(classes(), NAMES)


def gradient(loss: Tensor, raw: Tensor) -> Tensor:
    return torch.autograd.grad(loss, raw)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("weights", [None, {"a": 0.3, "c": 4.0}])
def test_weights_and_smoothing_are_torchs(smoothing: float, weights: dict[str, float] | None) -> None:
    raw, y = logits().requires_grad_(), classes()
    target = weighted(weights, label_smoothing=smoothing)
    by_class = torch.tensor([0.3, 1.0, 4.0, 1.0], dtype=torch.float64) if weights else None
    expected = F.cross_entropy(raw, y, weight=by_class, label_smoothing=smoothing)
    torch.testing.assert_close(target.loss_of(raw, y), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(mean_loss(target, raw, y), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(target.loss_of(raw, y), raw), gradient(expected, raw), rtol=1e-6, atol=1e-9)


def test_weights_and_smoothing_of_missing_labels_are_torchs_without_these_rows() -> None:
    raw, y = logits(), classes()
    holes = y.clone()
    holes[::3] = -1
    target = weighted({"a": 0.3, "c": 4.0}, label_smoothing=0.2)
    expected = F.cross_entropy(
        raw, holes, weight=torch.tensor([0.3, 1.0, 4.0, 1.0], dtype=torch.float64), label_smoothing=0.2, ignore_index=-1
    )
    torch.testing.assert_close(mean_loss(target, raw, holes), expected, rtol=1e-6, atol=0)


def test_balanced_weights_are_scikit_learns() -> None:
    y = torch.tensor([0] * 20 + [1] * 5 + [2] * 4 + [3])
    target = Classification(name="y", class_weights="balanced").fitted(torch.cat([y, torch.tensor([-1, -1])]), NAMES)
    expected = compute_class_weight("balanced", classes=np.arange(C), y=y.numpy())
    assert list(target.class_weights) == list(NAMES)
    np.testing.assert_allclose(list(target.class_weights.values()), expected, rtol=1e-12)
    # Every class has the same say.
    np.testing.assert_allclose(np.bincount(y.numpy(), weights=target.shares(y).numpy()), len(y) / C, rtol=1e-6)


def test_focal_without_gamma_is_cross_entropy_and_otherwise_its_formula() -> None:
    raw, y = logits(), classes()
    plain = Classification(name="y")
    torch.testing.assert_close(Classification(name="y", loss="focal", gamma=0.0).losses(raw, y), plain.losses(raw, y), rtol=1e-12, atol=0)
    p = raw.softmax(-1).gather(1, y.unsqueeze(1)).squeeze(1)
    focal = Classification(name="y", loss="focal")
    assert focal.gamma == 2.0
    torch.testing.assert_close(focal.losses(raw, y), -((1 - p) ** 2) * p.log(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_has_a_finite_gradient_where_the_network_is_sure(gamma: float) -> None:
    raw = torch.tensor([[200.0, 0, 0, 0], [0, 200.0, 0, 0]], requires_grad=True)
    loss = Classification(name="y", loss="focal", gamma=gamma).loss_of(raw, torch.tensor([0, 0]))
    assert bool(gradient(loss, raw).isfinite().all())
    assert math.isfinite(loss.item())


def test_shares_of_classes_as_labels_are_torchs() -> None:
    raw, t = logits().requires_grad_(), shares()
    expected = F.cross_entropy(raw, t)
    for target in (Classification(name="y"), SoftLabels(name="y")):
        torch.testing.assert_close(target.loss_of(raw, t), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(target.losses(raw, t), F.cross_entropy(raw, t, reduction="none"), rtol=1e-12, atol=0)
    smooth = Classification(name="y", label_smoothing=0.3)
    torch.testing.assert_close(smooth.loss_of(raw, t), F.cross_entropy(raw, t, label_smoothing=0.3), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "fields", [{}, {"label_smoothing": 0.2}, {"loss": "focal", "gamma": 1.5}, {"class_weights": {"a": 3.0, "d": 0.2}}], ids=str
)
def test_a_class_and_all_of_its_share_are_the_same_label(fields: dict[str, Any]) -> None:
    """So that mixtures of labels may be handed in as rows of shares."""
    target = Classification(name="y", **fields).fitted(classes(), NAMES)
    raw, y = logits(), classes()
    rows = F.one_hot(y, C).double()
    torch.testing.assert_close(target.losses(raw, rows), target.losses(raw, y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(target.loss_of(raw, rows), target.loss_of(raw, y), rtol=1e-6, atol=0)
    rows[::4], y[::4] = math.nan, -1
    torch.testing.assert_close(mean_loss(target, raw, rows), mean_loss(target, raw, y), rtol=1e-6, atol=0)


def test_a_stack_takes_shares_too() -> None:
    raw, t = logits(members=3), torch.stack([shares(seed) for seed in range(3)])
    target = Classification(name="y")
    each = [target.loss_of(own, label) for own, label in zip(raw, t, strict=True)]
    torch.testing.assert_close(target.loss_of(raw, t), torch.stack(each), rtol=1e-12, atol=0)


def test_soft_cross_entropy_is_smallest_at_the_label_where_it_is_its_entropy() -> None:
    t = shares()
    target = SoftLabels(name="y")
    entropy = -(t * t.log()).sum(-1)
    torch.testing.assert_close(target.losses(t.log(), t), entropy, rtol=1e-12, atol=0)
    raw = t.log().requires_grad_()
    assert float(gradient(target.losses(raw, t).sum(), raw).abs().max()) < 1e-12
    for seed in range(5):
        assert bool((target.losses(logits(seed), t) > entropy).all())
    with_zeros = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64)
    means = target.means({name: float(v.sum()) for name, v in target.scores(logits()[:1], with_zeros, torch.ones(1)).items()}, 1.0)
    assert means["kl"] == pytest.approx(means["loss"] - math.log(2), rel=1e-12)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_errors_of_numbers_are_torchs() -> None:
    raw, y = logits(), logits(5)
    for target, expected in (
        (Regression(name="y", loss="mae"), F.l1_loss(raw, y)),
        (Regression(name="y", loss="huber", delta=0.7), F.huber_loss(raw, y, delta=0.7)),
        (Regression(name="y", loss="huber"), F.huber_loss(raw, y, delta=1.0)),
    ):
        torch.testing.assert_close(target.loss_of(raw, y), expected, rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=25)
@given(q=st.floats(0.02, 0.98), seed=st.integers(0, 1000))
def test_the_best_constant_is_the_empirical_quantile(q: float, seed: int) -> None:
    """Its loss is no larger than that of any other row's value, or of what lies between."""
    y = torch.randn(41, 1, generator=stream(seed), dtype=torch.float64)
    target = Regression(name="y", loss="quantile", quantiles=(q,))
    best = float(np.quantile(y.numpy(), q, method="inverted_cdf"))

    def loss(value: float) -> float:
        return float(target.loss_of(torch.full((41, 1), value, dtype=torch.float64), y))

    others = [*y.squeeze(1).tolist(), best - 0.01, best + 0.01]
    assert loss(best) <= min(map(loss, others)) + 1e-12


def test_several_quantiles_are_found_together() -> None:
    y = torch.randn(400, 2, generator=stream(), dtype=torch.float64)
    target = Regression(name="y", loss="quantile", quantiles=(0.1, 0.5, 0.9))
    assert target.outputs(2) == 6

    def loss(raw: Any) -> float:
        return float(target.loss_of(torch.as_tensor(raw).expand(400, 6), y))

    found = minimize(loss, np.zeros(6), method="Powell", options={"xtol": 1e-6, "ftol": 1e-10}).x.reshape(2, 3)
    shares_below = (y.numpy()[:, :, None] <= found[None]).mean(0)
    np.testing.assert_allclose(shares_below, [[0.1, 0.5, 0.9]] * 2, atol=0.006)


def test_quantiles_are_answered_in_order_and_in_the_targets_unit() -> None:
    target = Regression(name="y", loss="quantile", quantiles=(0.05, 0.4, 0.95))
    raw = torch.tensor([[3.0, 1.0, 2.0, -1.0, 0.0, 1.0]])
    said = target.read(raw, torch.tensor([10.0, 0.0]), torch.tensor([2.0, 1.0]))
    assert said.quantiles.tolist() == [[[12.0, 14.0, 16.0], [-1.0, 0.0, 1.0]]]
    assert said.mean.tolist() == [[14.0, 0.0]]
    assert target.middle == (1, 1)


@pytest.mark.parametrize("shares", [(0.1, 0.9), (0.05, 0.3, 0.7, 0.95)], ids=str)
def test_between_two_quantiles_as_near_to_the_median_lies_the_answer(shares: tuple[float, ...]) -> None:
    """Not at the lower one, below which most rows are not; and the errors are those of the answer."""
    target, std = Regression(name="y", loss="quantile", quantiles=shares), torch.tensor([2.0, 0.5])
    raw = torch.randn(N, target.outputs(2), generator=stream()).unflatten(-1, (2, -1)).sort(-1).values
    half = len(shares) // 2
    expected = (raw[..., half - 1] + raw[..., half]) / 2 * std
    raw, labels = raw.flatten(-2), torch.randn(N, 2, generator=stream(1))
    torch.testing.assert_close(target.read(raw, torch.zeros(2), std).mean, expected)
    squares = (expected - labels * std).double().square().mean(-1)
    torch.testing.assert_close(target.scores(raw, labels, std)["squares"], squares, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "target",
    [
        Regression(name="y"),
        Regression(name="y", loss="mae"),
        Regression(name="y", loss="huber", delta=0.3),
        Regression(name="y", loss="gaussian_nll"),
        Regression(name="y", loss="quantile"),
    ],
    ids=lambda target: target.loss,
)
def test_the_loss_of_an_answer_is_that_of_the_outputs(target: Regression) -> None:
    """Whether it is read off raw outputs in normalized units, or off answers in the target's."""
    width, mean, std = 2, torch.tensor([10.0, -3.0], dtype=torch.float64), torch.tensor([4.0, 0.1], dtype=torch.float64)
    raw = torch.randn(N, target.outputs(width), generator=stream(), dtype=torch.float64)
    if target.quantiles:
        raw = raw.unflatten(-1, (width, -1)).sort(-1).values.flatten(-2)
    labels = torch.randn(N, width, generator=stream(1), dtype=torch.float64)
    truth = labels * std + mean
    truth[::5, 0] = math.nan
    known = ~truth.isnan().any(-1)
    found = target.said_losses(target.read(raw, mean, std), truth, mean, std)
    torch.testing.assert_close(found, target.losses(raw, labels)[known], rtol=1e-9, atol=1e-12)


def test_scores_add_up_to_the_losses_and_errors() -> None:
    std = torch.tensor([3.0], dtype=torch.float64)
    for target in (Regression(name="y"), Regression(name="y", loss="quantile")):
        raw = torch.randn(N, target.outputs(1), generator=stream(), dtype=torch.float64)
        labels = torch.randn(N, 1, generator=stream(1), dtype=torch.float64)
        found = target.scores(raw, labels, std)
        assert tuple(found) == target.scored
        said = target.read(raw, torch.zeros(1), std).mean if not target.quantiles else raw[:, [1]] * std
        np.testing.assert_allclose(found["squares"], (said - labels * std).square().mean(-1), rtol=1e-12)
        means = target.means({name: float(values.sum()) for name, values in found.items()}, N)
        assert set(means) == set(target.quick)
        assert means["loss"] == pytest.approx(float(target.loss_of(raw, labels)), rel=1e-12)


@pytest.mark.parametrize(
    "target",
    [Classification(name="y"), weighted({"a": 3.0}, label_smoothing=0.1), Classification(name="y", loss="focal")],
    ids=["plain", "weighted", "focal"],
)
def test_scores_of_classes_add_up(target: Classification) -> None:
    raw, y = logits(), classes()
    found = target.scores(raw, y, torch.ones(1))
    assert tuple(found) == target.scored
    means = target.means({name: float(values.sum()) for name, values in found.items()}, N)
    assert set(means) == set(target.quick)
    assert means["loss"] == pytest.approx(float(target.loss_of(raw, y)), rel=1e-6)
    assert means["nll"] == pytest.approx(float(F.cross_entropy(raw, y)), rel=1e-12)
    assert means["accuracy"] == pytest.approx(float((raw.argmax(-1) == y).double().mean()))


def test_sample_weights_make_a_weighted_mean() -> None:
    raw, y = logits(), classes()
    w = torch.rand(N, generator=stream(7), dtype=torch.float64)
    plain = Classification(name="y")
    expected = (plain.losses(raw, y) * w).sum() / w.sum()
    torch.testing.assert_close(mean_loss(plain, raw, y, w), expected, rtol=1e-12, atol=0)
    # A row twice is a row of weight two, and one of no weight is not there.
    counts = torch.arange(N) % 3
    twice = torch.repeat_interleave(torch.arange(N), counts)
    for target in (plain, weighted({"a": 0.3}, label_smoothing=0.1)):
        repeated = target.loss_of(raw[twice], y[twice])
        torch.testing.assert_close(mean_loss(target, raw, y, counts.double()), repeated, rtol=1e-6, atol=0)
    assert float(mean_loss(plain, raw, y, torch.zeros(N))) == 0.0


# --- refusals -------------------------------------------------------------------------------------------------------

CLASS, NUMBER = {"task": "classification", "name": "y"}, {"task": "regression", "name": "y"}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({**CLASS, "gamma": 1.0}, "/gamma", "inconsistent-spec"),
    ({**CLASS, "loss": "focal", "gamma": -1.0}, "/gamma", "value-out-of-range"),
    ({**CLASS, "label_smoothing": 1.0}, "/label_smoothing", "value-out-of-range"),
    ({**CLASS, "class_weights": "even"}, "/class_weights", "unknown-choice"),
    ({**CLASS, "class_weights": {"a": -1}}, "/class_weights/a", "value-out-of-range"),
    ({**CLASS, "class_weights": {"a": True}}, "/class_weights/a", "value-out-of-range"),
    ({**CLASS, "class_weights": [1, 2]}, "/class_weights", "unknown-choice"),
    ({**CLASS, "output": "tanh"}, "/output", "unknown-choice"),
    ({**CLASS, "decision": "vote"}, "/decision", "unknown-choice"),
    ({**CLASS, "decision": {"threshold": 1.5}}, "/decision/threshold", "value-out-of-range"),
    ({**CLASS, "decision": {"threshold": "test"}}, "/decision/threshold", "wrong-type"),
    ({**CLASS, "decision": {"threshold": None}}, "/decision/threshold", "wrong-type"),
    ({**CLASS, "decision": {"threshold": True}}, "/decision/threshold", "wrong-type"),
    ({**CLASS, "decision": {"costs": "high"}}, "/decision/costs", "wrong-type"),
    ({**CLASS, "weight": "learnt"}, "/weight", "value-out-of-range"),
    ({**CLASS, "weight": 0}, "/weight", "value-out-of-range"),
    ({**CLASS, "weight": True}, "/weight", "value-out-of-range"),
    ({**NUMBER, "delta": 1.0}, "/delta", "inconsistent-spec"),
    ({**NUMBER, "loss": "huber", "delta": 0}, "/delta", "value-out-of-range"),
    ({**NUMBER, "loss": "huber", "delta": 1e-300}, "/delta", "value-out-of-range"),
    ({**NUMBER, "quantiles": [0.5]}, "/quantiles", "inconsistent-spec"),
    ({**NUMBER, "loss": "quantile", "quantiles": [0.9, 0.1]}, "/quantiles", "value-out-of-range"),
    ({**NUMBER, "loss": "quantile", "quantiles": [0.0]}, "/quantiles/0", "value-out-of-range"),
    ({**NUMBER, "loss": "mae", "noise_std": 1.0}, "/noise_std", "inconsistent-spec"),
    ({**NUMBER, "noise_std": -1.0}, "/noise_std", "value-out-of-range"),
    ({**NUMBER, "noise_std": "test"}, "/noise_std", "value-out-of-range"),
    ({**NUMBER, "loss": "gaussian_nll", "output": "tanh"}, "/output", "inconsistent-spec"),
    ({**NUMBER, "loss": "gaussian_nll", "weight": "learned"}, "/weight", "inconsistent-spec"),
    ({**NUMBER, "class_weights": "balanced"}, "/class_weights", "unknown-choice"),
    ({"task": "distribution", "name": "y", "decision": {"threshold": 0.5}}, "/decision", "unknown-choice"),
]


@pytest.mark.parametrize(("sent", "pointer", "code"), REFUSED, ids=lambda value: str(value) if isinstance(value, dict) else None)
def test_what_does_not_hang_together_is_refused_by_its_place(sent: dict[str, Any], pointer: str, code: str) -> None:

    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Target).validate_python(sent)
    flaws = flaws_of(refused.value, sent, model=Target)
    assert [(flaw.pointer, flaw.code) for flaw in flaws] == [(pointer, code)]


def test_what_a_loss_takes_is_filled_in_and_written_back() -> None:
    assert Classification(name="y", loss="focal").dump()["gamma"] == 2.0
    assert Regression(name="y", loss="huber").dump()["delta"] == 1.0
    quantiles = Regression(name="y", loss="quantile")
    assert quantiles.dump()["quantiles"] == [0.05, 0.5, 0.95]
    assert Regression.model_validate(quantiles.dump()) == quantiles
    decided = Classification.model_validate({"name": "y", "decision": {"costs": [[0, 1], [5.0, 0]]}})
    assert Classification.model_validate(decided.dump()) == decided


def test_an_answer_has_no_more_than_it_says() -> None:
    said = Regression(name="y").read(torch.ones(2, 1), torch.zeros(1), torch.ones(1))
    assert said == Distribution(mean=said.mean)
