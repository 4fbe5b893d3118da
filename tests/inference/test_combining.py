"""Members and masks combined: rules, disagreement, weights, and the points on both axes."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid, ModeUnavailable
from service.inference import asking
from service.inference.asking import ask
from service.inference.model import Model
from service.inference.pools import Classes, Numbers, entropy
from service.tricks.modes import Asking, Combine, DropoutAxis, Mode

BOTH = {"hidden": [4], "activation": "tanh", "dropout": {"input": 0.25, "hidden": 0.5}}
CLASS = {"task": "classification", "name": "kind"}
NUMBER = {"task": "regression", "name": "size"}
GAUSSIAN = {"task": "regression", "name": "size", "loss": "gaussian_nll"}


# --- every way of asking --------------------------------------------------------------------------------------------


AXES: dict[str, dict[str, Any]] = {
    **{mode: {"mode": mode, "samples": 7} for mode in get_args(Mode)},
    **{f"all {dropout}": {"members": "all", "dropout": dropout, "samples": 7} for dropout in get_args(DropoutAxis)},
    "member 1": {"members": 1},
    "weighted": {"members": "all", "dropout": "weight_scaled", "weights": [1.0, 2.0, 5.0]},
}
ROUTES = [(name, combine) for name in AXES for combine in get_args(Combine)]


@pytest.mark.parametrize(("name", "combine"), ROUTES)
def test_a_row_answers_the_same_alone_and_in_a_batch(bench: Any, name: str, combine: str) -> None:
    model, x = bench.model(**BOTH, size=3), bench.inputs(23)
    together = bench.said(model, x, **AXES[name], combine=combine)
    for rows in ([0], [22], [3, 17, 4], list(range(11))):
        alone = bench.said(model, x[rows], **AXES[name], combine=combine)
        torch.testing.assert_close(alone.probabilities, together.probabilities[rows], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.total, together.total[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", AXES)
def test_numbers_answer_the_same_alone_and_in_a_batch(bench: Any, name: str) -> None:
    model, x = bench.model(GAUSSIAN, **BOTH, size=3), bench.inputs(23)
    together = bench.said(model, x, **AXES[name])
    for rows in ([0], [22], [3, 17, 4]):
        alone = bench.said(model, x[rows], **AXES[name])
        torch.testing.assert_close(alone.mean, together.mean[rows], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.variance, together.variance[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", AXES)
def test_chunks_of_rows_and_masks_do_not_show(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = bench.double(bench.model(**BOTH, size=3)), bench.inputs(5)
    whole = bench.said(model, x, **AXES[name], keep=True)
    for entries in (20, 300):
        monkeypatch.setattr(asking, "CHUNK_ENTRIES", entries)
        parts = bench.said(model, x, **AXES[name], keep=True)
        for field in ("probabilities", "total", "aleatoric", "members"):
            torch.testing.assert_close(getattr(parts, field), getattr(whole, field), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "combine"), ROUTES)
def test_probabilities_add_to_one(bench: Any, name: str, combine: str) -> None:
    found = bench.said(bench.model(**BOTH, size=3), bench.inputs(), **AXES[name], combine=combine)
    torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-12)
    assert bool((found.probabilities >= 0).all())


def test_single_is_weight_scaled_bit_by_bit(bench: Any) -> None:
    x = bench.inputs()
    for size in (1, 3):
        model = bench.model(**BOTH, size=size)
        single, scaled = bench.said(model, x, mode="single"), bench.said(model, x, mode="weight_scaled")
        for field in ("probabilities", "logits", "total", "aleatoric"):
            assert torch.equal(getattr(single, field), getattr(scaled, field))
        numbers = bench.model(GAUSSIAN, **BOTH, size=size)
        single, scaled = bench.said(numbers, x, mode="single"), bench.said(numbers, x, mode="weight_scaled")
        assert torch.equal(single.mean, scaled.mean)
        assert torch.equal(single.variance, scaled.variance)
        assert single.epistemic is None


def test_a_single_network_says_its_own_softmax(bench: Any) -> None:
    model, x = bench.model(hidden=[5]), bench.inputs()
    found = bench.said(model, x)
    with torch.no_grad():
        logits = model.networks[0](x)["kind"]
    assert torch.equal(found.logits, logits.double())
    torch.testing.assert_close(found.probabilities, logits.double().softmax(-1), rtol=1e-12, atol=0)
    assert found.epistemic is None
    assert found.agreement is None
    assert torch.equal(found.total, found.aleatoric)


# --- ensembles ------------------------------------------------------------------------------------------------------


def test_an_ensemble_of_one_is_its_member_bit_by_bit(bench: Any) -> None:
    x = bench.inputs()
    for targets in ((), (NUMBER,), (GAUSSIAN,)):
        alone, all_ = (bench.said(bench.model(*targets, hidden=[5]), x, **fields) for fields in ({"mode": "single"}, {"members": "all"}))
        if isinstance(alone, Classes):
            assert torch.equal(alone.probabilities, all_.probabilities)
        else:
            assert isinstance(alone, Numbers)
            assert torch.equal(alone.mean, all_.mean)


def test_rules_of_combination(bench: Any) -> None:
    model, x = bench.double(bench.model(hidden=[5], size=4)), bench.inputs(40)
    each = torch.stack([bench.said(model, x, members=i).probabilities for i in range(4)])
    votes = torch.nn.functional.one_hot(each.argmax(-1), 3).double().mean(0)
    expected = {"arithmetic": each.mean(0), "geometric": (each.log().mean(0)).softmax(-1), "vote": votes}
    for combine in get_args(Combine):
        found = bench.said(model, x, mode="ensemble", combine=combine, keep=True)
        torch.testing.assert_close(found.probabilities, expected[combine], rtol=0, atol=1e-12)
        torch.testing.assert_close(found.members, each, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.agreement, votes.gather(1, found.prediction.unsqueeze(1)).squeeze(1), rtol=0, atol=1e-12)
    tied = votes.topk(2).values
    assert bool((tied[:, 0] == tied[:, 1]).any()), "some vote is tied"
    first = (votes == tied[:, :1]).int().argmax(-1)
    assert torch.equal(bench.said(model, x, mode="ensemble", combine="vote").prediction, first), "a tie goes to the earlier class"


@pytest.mark.parametrize("targets", [(), (GAUSSIAN,)], ids=["classes", "numbers"])
def test_the_order_of_members_does_not_matter(bench: Any, targets: Any) -> None:
    model, x = bench.model(*targets, hidden=[5], size=4), bench.inputs()
    turned = Model(model.spec, model.encoding, model.classes, tuple(model.networks[i] for i in (2, 0, 3, 1)), 0)
    for combine in get_args(Combine) if not targets else ("arithmetic",):
        first, second = (bench.said(each, x, mode="ensemble", combine=combine) for each in (model, turned))
        for field in ("probabilities", "total", "aleatoric", "agreement") if not targets else ("mean", "aleatoric", "epistemic"):
            torch.testing.assert_close(getattr(first, field), getattr(second, field), rtol=1e-9, atol=1e-12)


def test_equal_members_say_what_one_says(bench: Any) -> None:
    for targets in ((), (GAUSSIAN,)):
        model, x = bench.double(bench.model(*targets, hidden=[5])), bench.inputs()
        copies = Model(model.spec, model.encoding, model.classes, model.networks * 5, 0)
        alone, together = bench.said(model, x), bench.said(copies, x)
        if targets:
            torch.testing.assert_close(together.mean, alone.mean, rtol=1e-14, atol=0)
            torch.testing.assert_close(together.aleatoric, alone.aleatoric, rtol=1e-14, atol=0)
            assert float(together.epistemic.max()) < 1e-20
        else:
            torch.testing.assert_close(together.probabilities, alone.probabilities, rtol=0, atol=1e-14)
            assert float(together.epistemic.abs().max()) < 1e-14
            assert bool((together.agreement - 1).abs().max() < 1e-12)


@pytest.mark.parametrize("fields", [{"mode": "ensemble"}, {"mode": "exact"}, {"members": "all", "dropout": "monte_carlo", "samples": 9}])
def test_what_networks_disagree_on_is_their_mean_divergence(bench: Any, fields: dict[str, Any]) -> None:
    """H(mean p) - mean H(p_m) == mean KL(p_m || mean p), and never below 0."""
    model, x = bench.double(bench.model(**BOTH, size=3)), bench.inputs()
    found = bench.said(model, x, **fields, keep=True)
    if fields.get("mode") == "exact":
        one = Model(model.spec, model.encoding, model.classes, model.networks[:1], 0)
        w = torch.from_numpy(bench.enumerated(one, x)[1]).view(-1, 1)
    else:
        w = torch.full((len(found.members), 1), 1 / len(found.members), dtype=torch.float64)
    divergence = (w * (found.members * (found.members / found.probabilities).log()).sum(-1)).sum(0)
    torch.testing.assert_close(found.epistemic, divergence, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.total, found.aleatoric + found.epistemic, rtol=0, atol=1e-14)
    assert bool((found.epistemic > 0).all())


def test_the_mean_probability_is_no_less_likely_than_the_mean_member(bench: Any) -> None:
    """Jensen, for every row and label: a theorem, 0 violations."""
    for seed in range(5):
        model, x = bench.model(hidden=[5], size=4, seed=10 * seed), bench.inputs(50, seed=seed)
        found = bench.said(model, x, keep=True)
        assert bool((-found.probabilities.log() <= -found.members.log().mean(0) + 1e-12).all())


def test_entropy_knows_that_nothing_is_not_undefined() -> None:
    assert entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([0.0, np.log(2)])


def test_a_mixtures_variance_is_the_mean_variance_and_the_variance_of_the_means(bench: Any) -> None:
    model, x = bench.double(bench.model(GAUSSIAN, hidden=[5], size=4)), bench.inputs()
    each = [bench.said(model, x, members=i) for i in range(4)]
    means, variances = torch.stack([one.mean for one in each]), torch.stack([one.variance for one in each])
    found = bench.said(model, x, mode="ensemble", keep=True)
    torch.testing.assert_close(found.mean, means.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.aleatoric, variances.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.epistemic, means.var(0, correction=0), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.variance, (variances + means**2).mean(0) - means.mean(0) ** 2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.members.mean.double(), means, rtol=1e-12, atol=0)
    assert torch.equal(bench.said(bench.model(NUMBER, size=2), x).variance, bench.said(bench.model(NUMBER, size=2), x).epistemic)


def test_a_small_spread_of_large_means_does_not_cancel(bench: Any) -> None:
    model, x = bench.double(bench.model(NUMBER, size=4)), bench.inputs()
    with torch.no_grad():
        for i, network in enumerate(model.networks):
            network.heads[0].weight.zero_()
            network.heads[0].bias.fill_(1e7 + 1e-3 * i)
    found = bench.said(model, x, mode="ensemble")
    torch.testing.assert_close(found.epistemic, torch.full((12, 1), 4 * 1e-6 * 1.25, dtype=torch.float64), rtol=1e-4, atol=0)


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_choose_and_average(bench: Any) -> None:
    model, x = bench.double(bench.model(**BOTH, size=3)), bench.inputs()
    each = torch.stack([bench.said(model, x, members=i).probabilities for i in range(3)])
    scaled = {"members": "all", "dropout": "weight_scaled"}
    torch.testing.assert_close(bench.said(model, x, **scaled, weights=[0.0, 7.0, 0.0]).probabilities, each[1], rtol=0, atol=1e-14)
    expected = (each * torch.tensor([1.0, 2.0, 5.0]).double().view(3, 1, 1) / 8).sum(0)
    torch.testing.assert_close(bench.said(model, x, **scaled, weights=[1.0, 2.0, 5.0]).probabilities, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(bench.said(model, x, **scaled, weights=[2.0, 2.0, 2.0]).probabilities, each.mean(0), rtol=0, atol=1e-12)
    assert torch.equal(bench.said(model, x, **scaled, weights="equal").probabilities, bench.said(model, x, **scaled).probabilities)


def test_weights_name_every_network_of_members_times_masks(bench: Any) -> None:
    model, x = bench.model(**BOTH, size=3), bench.inputs()
    fields = {"members": "all", "dropout": "monte_carlo", "samples": 4}
    plain = bench.said(model, x, **fields, keep=True)
    weights = torch.rand(12, generator=torch.Generator().manual_seed(0)).double()
    found = bench.said(model, x, **fields, weights=weights.tolist()).probabilities
    torch.testing.assert_close(found, (plain.members * (weights / weights.sum()).view(12, 1, 1)).sum(0), rtol=0, atol=1e-12)
    with pytest.raises(Invalid, match="3 weights for 12"):
        bench.said(model, x, **fields, weights=[1.0, 1.0, 1.0])
    with pytest.raises(ModeUnavailable, match="its own probability"):
        bench.said(model, x, mode="exact", weights=[1.0])


# --- axes -----------------------------------------------------------------------------------------------------------


def test_the_default_is_the_ensemble_or_the_single_network(bench: Any) -> None:
    one, three = bench.model(), bench.model(size=3)
    assert (Asking().axes(one).mode, Asking().axes(one).members) == ("single", (0,))
    assert (Asking().axes(three).mode, Asking().axes(three).members) == ("ensemble", (0, 1, 2))
    third = Model(three.spec, three.encoding, three.classes, three.networks, 2)
    assert Asking(mode="single").axes(third).members == (2,)
    assert Asking(members="best").axes(third) == Asking(mode="single").axes(third)._replace(mode="custom")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception]]] = {
    "ensemble of one": ({}, {"mode": "ensemble"}, ModeUnavailable),
    "no dropout": ({}, {"mode": "weight_scaled"}, ModeUnavailable),
    "no dropout to sample": ({}, {"mode": "monte_carlo"}, ModeUnavailable),
    "no dropout to enumerate": ({}, {"dropout": "exact"}, ModeUnavailable),
    "mode and axes": (BOTH, {"mode": "single", "dropout": "sampled"}, Invalid),
    "no such member": (BOTH, {"members": 1}, Invalid),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_cannot_answer(bench: Any, name: str) -> None:
    architecture, fields, error = REFUSED[name]
    with pytest.raises(error):
        Asking.model_validate(fields).axes(bench.model(**architecture))


PLACES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "ensemble of one": ([], {"mode": "ensemble"}, "/mode"),
    "no dropout": ([], {"mode": "monte_carlo"}, "/mode"),
    "no dropout on the axis": ([], {"members": 0, "dropout": "sampled"}, "/dropout"),
    "geometric mean of numbers": ([NUMBER], {"combine": "geometric"}, "/combine"),
    "votes on numbers": ([NUMBER], {"combine": "vote"}, "/combine"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_unavailable_has_its_place(bench: Any, name: str) -> None:
    targets, fields, place = PLACES[name]
    with pytest.raises(ModeUnavailable) as caught:
        Asking.model_validate(fields).axes(bench.model(*targets))
    assert [(flaw.pointer, flaw.code) for flaw in caught.value.flaws] == [(place, "mode-unavailable")]
    assert caught.value.flaws[0].message == caught.value.detail


@pytest.mark.parametrize("rule", ["geometric", "vote"])
def test_beside_classes_numbers_keep_their_mean(bench: Any, rule: str) -> None:
    model, x = bench.model(CLASS, NUMBER, size=3), bench.inputs()
    plain, ruled = (ask(model, x, Asking.model_validate({"combine": each}).axes(model)) for each in ("arithmetic", rule))
    assert torch.equal(plain["size"].mean, ruled["size"].mean)
    alone = bench.model(CLASS, size=3)
    assert not torch.equal(plain["kind"].probabilities, ruled["kind"].probabilities)
    assert torch.equal(ruled["kind"].probabilities, ruled["kind"].rules[rule])
    assert ask(alone, x, Asking.model_validate({"combine": rule}).axes(alone))["kind"].probabilities.shape == (len(x), 3)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), size=st.integers(1, 4))
def test_the_same_question_has_the_same_answer(bench: Any, seed: int, size: int) -> None:
    model, x = bench.model(**BOTH, size=size, seed=seed), bench.inputs(5, seed=seed)
    for dropout in get_args(DropoutAxis):
        first, again = (bench.said(model, x, members="all", dropout=dropout, samples=5, seed=seed).probabilities for _ in range(2))
        assert torch.equal(first, again)
