"""Verified rows: never more than any attack leaves, no answer inside the box but the clean one, and exact for linear models."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.inference.asking import ask
from service.inference.certifying import certain, farthest, refusal, verified
from service.inference.curves import piece
from service.inference.robustness_result import certified, combine
from service.nets import bounds
from service.nets.intervals import Interval
from service.tricks.attacks import APGD, FAB, PGD, AnyAttack, Blur, GaussianNoise, Square, UniformNoise
from service.tricks.modes import Asking

EPSILONS = (0.0, 0.01, 0.05, 0.2, 1.0)
WHOLE: dict[str, dict[str, Any]] = {
    "one": {},
    "mean": {"members": "all"},
    "geometric": {"members": "all", "combine": "geometric"},
    "vote": {"members": "all", "combine": "vote"},
    "weighted": {"members": "all", "weights": [0.6, 0.3, 0.1]},
}
ATTACKS: tuple[AnyAttack, ...] = (
    UniformNoise(epsilon=0.0),
    GaussianNoise(epsilon=0.0),
    PGD(epsilon=0.0, steps=8, bounds=None),
    PGD(epsilon=0.0, steps=5, norm="l2"),
    APGD(epsilon=0.0, steps=8),
    FAB(epsilon=0.0, steps=4),
    Square(epsilon=0.0, queries=30),
)


def model_of(bench: Any, asked: dict[str, Any], **fields: Any) -> Any:
    return bench.model(hidden=[6], size=3 if asked else 1, **fields)


@pytest.mark.parametrize("name", WHOLE)
def test_clean_error_is_at_most_attacked_error_is_at_most_verified_error(bench: Any, name: str) -> None:
    """On the same rows, of which some are wrong from the start, as a whole and row by row."""
    x, model = bench.inputs(60), model_of(bench, WHOLE[name])
    labels = bench.subject(model, x, **WHOLE[name]).labels.clone()
    labels[:6] = (labels[:6] + 1) % 3
    found = bench.subject(model, x, labels, **WHOLE[name])
    # As shards send it.
    part = json.loads(json.dumps(piece(found, ATTACKS, EPSILONS)))
    result = combine([part], ATTACKS, EPSILONS)
    shown = certified([part], ATTACKS, EPSILONS, None)
    left = [point["accuracy"] for point in shown["curve"]]
    attacked = [point["accuracy"] for point in result["worst_case"]]
    assert all(clean >= a >= v for clean, a, v in zip([result["clean"]["accuracy"]] * 5, attacked, left, strict=True))
    assert left == sorted(left, reverse=True)
    assert left[0] == pytest.approx(0.9) or name == "vote", "ties of votes are open"
    assert 0 < left[2] < 0.9, "some rows are verified and some are not"
    assert [point["verified_error"] for point in shown["curve"]] == [1 - share for share in left]
    for broken, held in zip(result["per_row"]["broken_at"], shown["per_row"], strict=True):
        assert broken is None or held is None or held < broken


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_in_a_verified_box_gets_another_answer(bench: Any, name: str) -> None:
    model, x, epsilon = model_of(bench, WHOLE[name]), bench.inputs(20), 0.05
    axes = Asking.model_validate(WHOLE[name]).axes(model)
    labels = ask(model, x, axes)["kind"].prediction
    held = certain(model, axes, Interval(x.double(), torch.full_like(x, epsilon).double()), labels)
    assert 0 < int(held.sum()) < 20
    draws = torch.rand(1000, *x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    draws[::2] = draws[::2].sign()
    said = ask(model, (x + epsilon * draws).flatten(0, 1), axes)["kind"].prediction.view(1000, 20)
    assert bool((said == labels)[:, held].all())


@pytest.mark.parametrize("size", [1, 2])
def test_attacks_on_convolutions_leave_what_is_verified(bench: Any, size: int) -> None:
    net = {"type": "cnn", "channels": [3], "hidden": [6], "batch_norm": True}
    model = bench.model(encoding=bench.encoding(shape=(6, 6)), size=size, **net)
    x = bench.inputs(40, 36).view(40, 6, 6)
    found = bench.subject(model, x)
    for attack in (PGD(epsilon=0.02, steps=10), PGD(epsilon=0.02, steps=10, loss="margin", bounds=None)):
        (held,) = verified(found, [attack], [0.02])
        assert 0 < sum(held) < 40
        assert not bool((torch.tensor(held) & ~found.attack(attack).standing).any())


def corners(model: Any, x: Tensor, epsilon: float, axes: Any) -> Tensor:
    """Whether the answer is the same in all corners of the boxes."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * x.shape[1])
    clean = ask(model, x, axes)["kind"].prediction
    return torch.stack([ask(model, x + epsilon * sign, axes)["kind"].prediction == clean for sign in signs]).all(0)


def assert_held(held: list[bool], holds: Tensor) -> None:
    """What is verified holds, and all that holds by more than rounding is verified."""
    assert not bool((torch.tensor(held) & ~holds).any())
    assert 0 < sum(held) < len(held)
    assert int(holds.sum()) - sum(held) <= 1


def test_of_a_linear_model_verified_is_what_holds(bench: Any) -> None:
    model, x = bench.model(), bench.inputs(300)
    found = bench.subject(model, x)
    for epsilon in (0.05, 0.2, 0.5):
        (held,) = verified(found, [PGD(epsilon=0.0, bounds=None)], [epsilon])
        assert_held(held, corners(model, x, epsilon, found.axes))


@pytest.mark.parametrize("combine", ["arithmetic", "geometric", "vote"])
def test_of_linear_members_that_are_one_verified_is_what_holds(bench: Any, combine: str) -> None:
    single, x = bench.model(), bench.inputs(300)
    found = bench.subject(replace(single, networks=single.networks * 3), x, members="all", combine=combine)
    (held,) = verified(found, [PGD(epsilon=0.0, bounds=None)], [0.2])
    assert_held(held, corners(single, x, 0.2, Asking().axes(single)))


def test_a_mean_is_verified_where_a_member_disagrees(bench: Any) -> None:
    """The bounds of probabilities carry rows that no member-by-member argument does."""
    model, x = bench.model(hidden=[6], size=3), bench.inputs(200)
    axes = Asking(members="all").axes(model)
    labels = ask(model, x, axes)["kind"].prediction
    box = Interval(x.double(), torch.full_like(x, 0.01).double())
    together = certain(model, axes, box, labels)
    each = torch.stack([certain(model, Asking(members=i).axes(model), box, labels) for i in range(3)]).all(0)
    assert bool((together | ~each).all())
    assert int((together & ~each).sum()) > 0


def test_what_attacks_may_not_move_is_not_bounded(bench: Any) -> None:
    """Immutable fields and bounds make the box smaller; a box of all attacks is that of the widest."""
    model, x = bench.model(hidden=[6]), bench.inputs(100)
    found = bench.subject(model, x)
    free, kept = PGD(epsilon=0.0, bounds=None), PGD(epsilon=0.0, immutable=("n0", "n1", "n2"))
    counts = [sum(verified(found, attacks, [0.2])[0]) for attacks in ([kept], [free], [kept, free])]
    assert counts[0] > counts[1] == counts[2]


def test_in_standard_deviations_the_box_is_wider(bench: Any) -> None:
    model, x = bench.model(hidden=[6]), bench.inputs(100)
    found = bench.subject(model, x)
    raw, std = (verified(found, [PGD(epsilon=0.0, bounds=None, unit=unit)], [0.1, 0.2]) for unit in ("raw", "std"))
    assert std[0] == raw[1], "the model's standard deviation is 2"


def test_what_cannot_be_verified_is_said(bench: Any) -> None:
    pgd = (PGD(epsilon=0.0),)
    dropped = bench.model(hidden=[6], dropout=0.3)
    reasons = [
        (bench.model({"task": "reconstruction", "name": "again"}), {}, pgd, "moves with the row"),
        (dropped, {"mode": "monte_carlo"}, pgd, "masks"),
        (bench.model(hidden=[6]), {}, (Blur(severity=1),), "severities"),
        (bench.model({"task": "classification", "name": "kind", "decision": {"costs": [[0, 1, 1]] * 3}}), {}, pgd, "costs"),
    ]  # fmt: skip
    for model, asked, attacks, word in reasons:
        axes = Asking.model_validate(asked).axes(model)
        said = refusal(model, axes, attacks)
        assert said is not None
        assert word in said
        assert (
            verified(bench.subject(model, bench.inputs(3), torch.zeros(3, 4) if "row" in word else None, **asked), attacks, [0.1]) is None
        )
        assert certified([], attacks, [0.1], said) == {
            "method": "interval_bounds",
            "norm": "linf",
            "reason": said,
            "curve": None,
            "per_row": None,
        }
    assert refusal(dropped, Asking().axes(dropped), pgd) is None


def test_shards_add_up(bench: Any) -> None:
    model, x = bench.model(hidden=[6]), bench.inputs(40)
    whole = bench.subject(model, x)
    parts = [piece(bench.subject(model, x[part], whole.labels[part]), ATTACKS[:1], EPSILONS) for part in (slice(0, 13), slice(13, 40))]
    assert certified(parts, ATTACKS[:1], EPSILONS, None) == certified([piece(whole, ATTACKS[:1], EPSILONS)], ATTACKS[:1], EPSILONS, None)
    assert np.array(parts[0]["verified"]).shape == (5, 13)


def test_a_network_without_bounds_has_a_reason_and_no_curve(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bench.model(hidden=[6], size=1)
    subject = bench.subject(model, bench.inputs(20))
    layer = model.networks[0].trunk.hidden[0]
    monkeypatch.setattr(layer, "activation", torch.sin)  # no architecture of this release has a function without intervals
    reason = refusal(model, Asking().axes(model), ATTACKS)
    assert reason == "the network has no bounds: no interval is known for sin"
    part = json.loads(json.dumps(piece(subject, ATTACKS, EPSILONS)))
    assert part["verified"] is None
    shown = certified([part], ATTACKS, EPSILONS, reason)
    assert (shown["reason"], shown["curve"], shown["per_row"]) == (reason, None, None)
    assert combine([part], ATTACKS, EPSILONS)["worst_case"], "what attacks found is there all the same"


NUMBERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one": ({}, {}),
    "mean": ({}, {"members": "all"}),
    "weighted": ({}, {"members": "all", "weights": [0.6, 0.3, 0.1]}),
    "gaussian": ({"loss": "gaussian_nll"}, {"members": "all"}),
    "quantiles": ({"loss": "quantile", "quantiles": [0.1, 0.4, 0.6]}, {}),
    "tanh": ({"output": "tanh"}, {}),
}
FIELDWISE: tuple[AnyAttack, ...] = (
    GaussianNoise(epsilon=0.0), UniformNoise(epsilon=0.0), PGD(epsilon=0.0, steps=8, bounds=None), PGD(epsilon=0.0, steps=5, norm="l2"),
)  # fmt: skip


def numbers_of(bench: Any, name: str, rows: int = 40, **fields: Any) -> Any:
    """A regression under attack, of a size and with labels that are off."""
    target, asked = NUMBERS[name]
    model = bench.model({"task": "regression", "name": "size", **target}, size=3 if asked else 1, **{"hidden": [6], **fields})
    x = bench.inputs(rows)
    labels = bench.subject(model, x, torch.zeros(rows, 1), **asked).clean.mean + torch.linspace(-1, 1, rows).unsqueeze(1)
    return bench.subject(model, x, labels, **asked)


@pytest.mark.parametrize("name", NUMBERS)
def test_clean_error_is_at_most_attacked_error_is_at_most_its_bound(bench: Any, name: str) -> None:
    """Row by row and as a whole, for squared and for absolute errors."""
    found = numbers_of(bench, name)
    part = json.loads(json.dumps(piece(found, FIELDWISE, EPSILONS)))
    result, shown = combine([part], FIELDWISE, EPSILONS), certified([part], FIELDWISE, EPSILONS, None)
    for e in range(len(EPSILONS)):
        attacked = np.max([part["curves"][a][at]["errors"] for a in range(len(FIELDWISE)) for at in range(e + 1)], axis=0)
        bound, absolute = (np.array(shown["per_row"][key])[:, e] for key in ("mse", "mae"))
        assert (np.array(part["errors"]) <= attacked + 1e-12).all()
        assert (attacked <= bound).all()
        assert (np.sqrt(attacked) <= absolute).all(), "of one output"
        assert result["clean"]["rmse"] <= result["worst_case"][e]["rmse"] <= shown["curve"][e]["rmse"]
        assert shown["curve"][e]["mse"] == pytest.approx(bound.mean())
        assert shown["curve"][e]["mae"] == pytest.approx(absolute.mean())
    assert shown["curve"][0]["rmse"] == pytest.approx(result["clean"]["rmse"], rel=1e-3), "a point has no room"
    assert shown["reason"] is None


@pytest.mark.parametrize("name", NUMBERS)
def test_nothing_in_a_box_errs_by_more_than_its_bound(bench: Any, name: str) -> None:
    found = numbers_of(bench, name, 10)
    box = Interval(found.x.double(), torch.full_like(found.x, 0.1).double())
    most = farthest(found.model, found.axes, box, found.labels)
    draws = torch.rand(1000, *found.x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    draws[::2] = draws[::2].sign()
    said = ask(found.model, (found.x + 0.1 * draws).flatten(0, 1), found.axes)["size"].mean.view(1000, 10, 1)
    assert bool(((said - found.labels).abs() <= most).all())


def test_of_a_linear_regression_the_bound_is_reached(bench: Any) -> None:
    """In one of the corners of each box."""
    model, x = bench.model({"task": "regression", "name": "size"}), bench.inputs(50)
    found = bench.subject(model, x, torch.linspace(-3, 3, 50).unsqueeze(1))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * x.shape[1])
    for epsilon in (0.05, 0.5):
        (held,) = verified(found, [PGD(epsilon=0.0, bounds=None)], [epsilon])
        worst = torch.stack([torch.tensor(found.errors(x + epsilon * sign)) for sign in signs]).amax(0)
        torch.testing.assert_close(torch.tensor(held["squared"]), worst, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(torch.tensor(held["absolute"]), worst.sqrt(), rtol=1e-3, atol=1e-3)


def test_an_error_without_a_bound_is_null(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it leaves the range of numbers."""
    found, attacks = numbers_of(bench, "one", 5), (PGD(epsilon=0.0, bounds=None),)
    far = Interval.between(torch.full((5, 1), -1e200, dtype=torch.float64), torch.full((5, 1), 1e200, dtype=torch.float64))
    monkeypatch.setattr(bounds, "bounds", lambda *_: {"size": far})
    shown = certified([json.loads(json.dumps(piece(found, attacks, (0.1,))))], attacks, (0.1,), None)
    assert shown["per_row"]["mse"] == [[None]] * 5
    assert shown["curve"] == [{"epsilon": 0.1, "mae": None, "mse": None, "rmse": None}]
