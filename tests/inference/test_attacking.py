"""Attacks on the predictor that answers: whose loss it is, and what must not change."""

import itertools
import math
from typing import Any, get_args

import pytest
import torch

from service.errors import Invalid, TooLarge
from service.inference.asking import ask
from service.inference.attacking import AttackRequest, answer
from service.inference.boxes import bounds_used, box_of
from service.inference.deployed import Deployed, DeployedNumbers, attacked
from service.inference.robustness import Subject, block_rows, rows_at_once
from service.inference.units import run
from service.tricks.attacks import APGD, FAB, FGSM, PGD, Attack, Corruption, DeepFool, Ladder, UniformNoise, gradient
from service.tricks.corruption import Blur, Brightness, Contrast, Occlusion, Shift
from service.tricks.modes import Asking, Mode
from tests.inference.conftest import SHORT

NUMBER = {"task": "regression", "name": "size"}
BOTH = {"hidden": [4], "activation": "tanh", "dropout": {"input": 0.25, "hidden": 0.5}}
KINDS = [kind for kind in get_args(get_args(Attack)[0]) if not issubclass(kind, Corruption)]


# Deterministic points of the axes; Monte Carlo is attacked through other masks than those that judge.
POINTS: dict[str, dict[str, Any]] = {
    "single": {"mode": "single"},
    "weight_scaled": {"mode": "weight_scaled"},
    "exact": {"mode": "exact"},
    "ensemble": {"mode": "ensemble"},
    "all exact": {"members": "all", "dropout": "exact"},
    "weighted": {"members": "all", "dropout": "weight_scaled", "weights": [1.0, 2.0, 5.0]},
    "one of all": {"members": "all", "dropout": "weight_scaled", "weights": [0.0, 0.0, 1.0]},
}


def test_every_mode_is_in_the_table() -> None:
    assert set(get_args(Mode)) - set(POINTS) == {"monte_carlo"}


@pytest.mark.parametrize("rule", ["arithmetic", "geometric"])
@pytest.mark.parametrize("name", POINTS)
def test_the_loss_is_that_of_the_answer(bench: Any, name: str, rule: str) -> None:
    model, x = bench.double(bench.model(**BOTH, size=3)), bench.inputs().double()
    axes = Asking.model_validate({**POINTS[name], "combine": rule}).axes(model)
    labels = torch.arange(12) % 3
    logs = ask(model, x, axes)["kind"].probabilities.log()
    right = logs.gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(Deployed(model, axes, "kind", labels)(x), -right, rtol=0, atol=1e-6)
    margin = Deployed(model, axes, "kind", labels, "margin")(x)
    others = logs.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    torch.testing.assert_close(margin, others - right, rtol=0, atol=1e-6)
    assert torch.equal(margin > 0, Deployed(model, axes, "kind", labels).broken(x)), "a positive margin is a broken row"


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "one": ({}, {}, True),
    "an ensemble": ({"size": 3}, {}, True),
    "by votes": ({"size": 3}, {"members": "all", "combine": "vote"}, False),
    "under masks": ({"dropout": {"hidden": 0.5}}, {"members": "all", "dropout": "monte_carlo", "samples": 3}, False),
    "by costs": ({}, {}, False),
    "loud": ({"logit_scale": 1e5}, {}, True),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_pass_tells_of_who_is_broken_is_what_is_answered(bench: Any, name: str) -> None:
    """The rest is doubtful, and asked about; where the pass is not what answers, all of it."""
    architecture, asked, tells = ASKED[name]
    decision = {"decision": {"costs": [[0, 1, 9], [1, 0, 9], [1, 1, 0]]}} if name == "by costs" else {}
    target = {"task": "classification", "name": "kind", **decision}
    model, x = bench.model(target, **{"hidden": [8], **architecture}), bench.inputs(300)
    found = bench.subject(model, x, torch.arange(300) % 3, **asked)
    loss = found.loss(torch.arange(300), FGSM(epsilon=0.1))
    look = loss.looked(x)
    assert torch.equal(look.broken[~look.doubtful], loss.broken(x)[~look.doubtful])
    assert (int(look.doubtful.sum()) < 30) == tells
    assert bool(look.doubtful.all()) == (not tells)


def test_blocks_of_rows_follow_what_they_cost(bench: Any) -> None:
    small, axes = bench.model(hidden=[8]), Asking().axes(bench.model())
    large = bench.model(encoding=bench.encoding(100), hidden=[800])
    assert rows_at_once(small, axes) == 250
    assert rows_at_once(large, axes) == 1000
    cheap, dear = (PGD(epsilon=0.0, steps=20),), (Ladder(epsilon=0.0, steps=100, queries=5000),)
    assert block_rows(large, axes, cheap, (0.1,)) == 1000
    assert block_rows(large, axes, dear, (0.1, 0.2)) == 250
    assert 250 <= block_rows(large, axes, cheap, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)) < 1000


def test_the_way_to_a_class_is_that_of_its_criterion_and_any_other_class_ends_it(bench: Any) -> None:
    """As APGD goes it for one class after the other: the loss leads there, and the row is broken wherever it leaves its own."""
    model, x = bench.double(bench.model(hidden=[8])), bench.inputs(60).double()
    found = bench.subject(model, x)
    loss, goals = found.loss(torch.arange(60), APGD(epsilon=0.1)), (found.labels + 1) % 3
    led = loss.under("cross_entropy").towards(goals)
    chances = ask(model, x, found.axes)["kind"].probabilities
    torch.testing.assert_close(led(x), chances.gather(1, goals[:, None]).squeeze(1).log(), rtol=0, atol=1e-9)
    some = torch.arange(0, 60, 7)
    assert torch.equal(led.only(some)(x[some]), led(x)[some])
    elsewhere = x.flip(0)
    assert torch.equal(led.broken(elsewhere), ask(model, elsewhere, found.axes)["kind"].prediction != found.labels)


@pytest.mark.parametrize("name", POINTS)
def test_numbers_are_attacked_where_they_answer(bench: Any, name: str) -> None:
    model, x = bench.double(bench.model(NUMBER, **BOTH, size=3)), bench.inputs().double()
    axes = Asking.model_validate(POINTS[name]).axes(model)
    values = torch.linspace(0, 9, 12, dtype=torch.float64).unsqueeze(1)
    expected = (ask(model, x, axes)["size"].mean - values).square().mean(-1)
    torch.testing.assert_close(DeployedNumbers(model, axes, "size", values)(x), expected, rtol=1e-6, atol=1e-6)
    assert not bool(DeployedNumbers(model, axes, "size", values).broken(x).any())


@pytest.mark.parametrize("criterion", ["cross_entropy", "margin"])
def test_gradients_are_those_of_differences(bench: Any, criterion: str) -> None:
    model, x = bench.double(bench.model(**BOTH, size=2)), bench.inputs(5).double()
    for fields in ({"mode": "ensemble"}, {"mode": "exact"}, {"members": "all", "dropout": "monte_carlo", "samples": 3}):
        loss = Deployed(model, Asking.model_validate(fields).axes(model), "kind", torch.tensor([0, 1, 2, 0, 1]), criterion)
        slope = gradient(x, loss)
        for i in range(4):
            step = torch.zeros(4, dtype=torch.float64)
            step[i] = 1e-6
            torch.testing.assert_close((loss(x + step) - loss(x - step)) / 2e-6, slope[:, i], rtol=1e-5, atol=1e-8)


def test_one_seed_never_serves_both_sides(bench: Any) -> None:
    model = bench.model(**BOTH)
    for seed in (0, 5, 2**63 - 1):
        axes = Asking(mode="monte_carlo", seed=seed, samples=100).axes(model)
        assert attacked(axes).seed != axes.seed
        assert 0 <= attacked(axes).seed < 2**63
        assert attacked(axes).samples == 30
    fixed = Asking(mode="exact").axes(model)
    assert attacked(fixed) == fixed


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_zero_is_the_clean_row_bit_by_bit(bench: Any, kind: type) -> None:
    model, x = bench.model(hidden=[5], size=2), bench.inputs(40) * 5
    x[:, 0] = -0.0
    found = bench.subject(model, x, torch.arange(40) % 3)
    for norm, bounds in itertools.product(("linf", "l2"), ("data", None)):
        moved, standing, *_ = found.attack(bench.attack(kind, epsilon=0.0, norm=norm, bounds=bounds))
        assert moved.numpy().tobytes() == x.numpy().tobytes()
        assert torch.equal(standing, found.right)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", get_args(Mode))
def test_an_attack_leaves_no_trace_on_the_model(bench: Any, kind: type, mode: str) -> None:
    model, x = bench.model(**BOTH, batch_norm=True, size=2), bench.inputs(8)
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in model.networks]
    rows = x.clone()
    found = bench.subject(model, x, mode=mode, samples=3)
    state = torch.get_rng_state()
    found.attack(bench.attack(kind))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is nobody's"
    assert torch.equal(x, rows)
    for network, tensors in zip(model.networks, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
        assert not any(module.training for module in network.modules())


BOUNDS: dict[str, tuple[Any, tuple[float, float] | None]] = {
    "data": ("data", (-2.0, 3.0)),
    "given": ((-1.0, 1.5), (-1.0, 1.5)),
    "none": (None, None),
}


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_categories_and_immutable_columns_never_move(bench: Any, kind: type, norm: Any, bounds: str) -> None:
    encoding = bench.encoding(4, categories=[["red", "green", "blue"], ["yes", "no"]])
    model = bench.model(encoding=encoding, hidden=[5])
    x = torch.cat([bench.inputs(30), torch.eye(3)[torch.arange(30) % 3], torch.eye(2)[torch.arange(30) % 2]], dim=1)
    given, limits = BOUNDS[bounds]
    made = bench.attack(kind, epsilon=2.0, norm=norm, bounds=given, immutable=("n1", "c0"))
    moved, *_ = bench.subject(model, x).attack(made)
    kept = [1, 4, 5, 6, 7, 8]
    assert torch.equal(moved[:, kept], x[:, kept])
    assert bool((moved[:, [0, 2, 3]] != x[:, [0, 2, 3]]).any(0).all())
    if limits is not None:
        low, high = torch.minimum(x, torch.tensor(limits[0]))[:, :4], torch.maximum(x, torch.tensor(limits[1]))[:, :4]
        assert bool(((moved[:, :4] >= low) & (moved[:, :4] <= high)).all())
    else:
        assert bool(((moved[:, :4] < -2) | (moved[:, :4] > 3)).any())
    expected = {"data": {f"n{i}": [-2.0, 3.0] for i in range(4)}, "given": [-1.0, 1.5], "none": None}
    assert bounds_used(made, encoding) == expected[bounds]


def test_an_image_keeps_its_bounds(bench: Any) -> None:
    encoding = bench.encoding(shape=(2, 2))
    model, x = bench.model(encoding=encoding, hidden=[5]), bench.inputs(30).view(30, 2, 2)
    moved, *_ = bench.subject(model, x).attack(FGSM(epsilon=1.0))
    assert moved.shape == x.shape
    assert bool(((moved >= -2) & (moved <= 3)).all())
    assert bool((bench.subject(model, x).attack(FGSM(epsilon=1.0, bounds=None))[0] > 3).any())
    box = box_of(FGSM(epsilon=1.0, bounds=None), encoding)
    assert (box.low, box.high, box.movable) == (None, None, None)


def test_rows_that_are_wrong_are_neither_attacked_nor_counted(bench: Any) -> None:
    model, x = bench.model(hidden=[5]), bench.inputs(30)
    labels = bench.subject(model, x).labels.clone()
    labels[::3] = (labels[::3] + 1) % 3
    for kind in KINDS:
        moved, standing, flat, *_ = bench.subject(model, x, labels).attack(bench.attack(kind))
        assert torch.equal(moved[::3], x[::3])
        assert not bool(standing[::3].any())
        assert flat is None or not bool(flat[::3].any())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (FGSM, DeepFool, FAB, APGD, Ladder)])
def test_every_row_has_a_draw_of_its_own(bench: Any, kind: type) -> None:
    """Also in the next batch of rows: a control that repeats itself counts the same draw twice."""
    found = bench.subject(bench.model(encoding=bench.encoding(30)), torch.full((600, 30), 0.5))
    made = bench.attack(kind, bounds=None, **({"steps": 1, "step_size": 1e-6, "restarts": 1} if kind is PGD else {}))
    assert len(found.attack(made)[0].unique(dim=0)) == 600


@pytest.mark.parametrize("kind", KINDS)
def test_run_gives_back_other_rows(bench: Any, kind: type) -> None:
    """A copy, so that a caller may write into it."""
    x = bench.inputs()
    model = bench.model()
    loss = bench.subject(model, x).loss(torch.arange(12), FGSM(epsilon=0.3))
    for epsilon in (0.0, 0.3):
        found = run(bench.attack(kind, epsilon=epsilon), x, loss, box_of(bench.attack(kind), model.encoding)).inputs
        assert found.data_ptr() != x.data_ptr()


NO_NUMBERS = {
    "text": ("3.5", "wrong-type"),
    "a boolean": (True, "wrong-type"),
    "null": (None, "wrong-type"),
    "an object": ({}, "wrong-type"),
    "not a number": (math.nan, "non-finite"),
    "infinite": (-math.inf, "non-finite"),
    "beyond float32": (1e300, "non-finite"),
    "two numbers": ([1.0, 2.0], "shape-mismatch"),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", NO_NUMBERS)
def test_labels_of_a_number_are_finite_numbers(bench: Any, name: str, named: bool) -> None:
    """The pointer is the label's, also where labels are given by target."""
    wrong, code = NO_NUMBERS[name]
    model, labels = bench.model(NUMBER), [5, [4.5], wrong, 7.0]
    sent = {"inputs": bench.inputs(4).tolist(), "labels": {"size": labels} if named else labels, "attack": {"type": "fgsm", "epsilon": 0.1}}
    with pytest.raises(Invalid) as caught:
        answer(model, AttackRequest.model_validate(sent), most_rows=10)
    assert [(flaw.pointer, flaw.code) for flaw in caught.value.flaws] == [("/labels/size/2" if named else "/labels/2", code)]
    labels[2] = 0
    found = answer(model, AttackRequest.model_validate(sent), most_rows=10)
    assert found["success"] == [None] * 4


@pytest.mark.parametrize(("steps", "rows"), [(9_999, 1), (200, 1000)])
def test_too_much_work_for_one_answer_is_refused(bench: Any, steps: int, rows: int) -> None:
    """Many rows, or many steps one after the other: no batch makes those quicker."""
    attack = {"type": "fab", "epsilon": 0.1, "steps": steps}
    sent = {"inputs": bench.inputs(1).tolist() * rows, "labels": ["a"] * rows, "attack": attack}
    with pytest.raises(TooLarge, match="robustness"):
        answer(bench.model(), AttackRequest.model_validate(sent), most_rows=1000)


@pytest.mark.parametrize("wrong", ["d", True, 1, None, ["a"], math.nan])
def test_labels_of_a_class_are_its_names(bench: Any, wrong: Any) -> None:
    sent = {"inputs": bench.inputs(3).tolist(), "labels": ["a", wrong, "c"], "attack": {"type": "fgsm", "epsilon": 0.1}}
    with pytest.raises(Invalid) as caught:
        answer(bench.model(), AttackRequest.model_validate(sent), most_rows=10)
    assert [(flaw.pointer, flaw.code) for flaw in caught.value.flaws] == [("/labels/1", "unknown-choice")]


DRAWING = [kind for kind in get_args(get_args(Attack)[0]) if kind not in (FGSM, DeepFool, FAB, Blur, Contrast, Brightness)]


@pytest.mark.parametrize("kind", DRAWING)
def test_what_is_drawn_for_a_row_is_its_own_in_any_batch(bench: Any, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """Twelve equal rows: no two get the same noise, and it does not matter how many are moved side by side."""
    pictures = kind in (Shift, Occlusion)
    model = bench.model(hidden=[8], encoding=bench.encoding(shape=(6, 6)) if pictures else bench.encoding(16))
    row = bench.inputs(1, 36)[0].view(6, 6) if pictures else bench.inputs(1, 16)[0]
    x = row.expand(12, *row.shape).clone()
    right = ask(model, x, Asking().axes(model))["kind"].prediction
    size = {"severity": 5} if issubclass(kind, Corruption) else {"epsilon": 1e-3, "bounds": None}
    sent = {"inputs": x.tolist(), "labels": [model.classes[0][int(each)] for each in right]}
    asked = AttackRequest.model_validate({**sent, "attack": {"type": kind.model_fields["type"].default, **size, **SHORT.get(kind, {})}})
    found = []
    for most in (1000, 5, 1):
        monkeypatch.setattr("service.inference.attacking.rows_at_once", lambda *_, most=most: most)
        found.append(torch.tensor(answer(model, asked, most_rows=100)["inputs"]).float())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-6)
    if kind not in (PGD, APGD, Ladder):  # which climb from wherever they start to the same corner
        assert len(found[0].flatten(1).unique(dim=0)) >= (3 if pictures else 11), "Shift has four corners, Occlusion nine places or fewer"


def test_a_job_draws_for_a_row_what_the_endpoint_draws(bench: Any) -> None:
    """By its number in the part, whatever block it is in."""
    model = bench.model(hidden=[8])
    x = bench.inputs(9)
    labels = ask(model, x, Asking().axes(model))["kind"].prediction
    noise = UniformNoise(epsilon=1e-3, bounds=None, seed=5)
    whole = bench.subject(model, x, labels).attack(noise).moved
    late = Subject(model, Asking().axes(model), x[4:], labels[4:], first=4).attack(noise).moved
    assert torch.equal(late, whole[4:])
