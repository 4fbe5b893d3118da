"""Targets, sources, units and bounds: what an attack on a model may say of its aim, and what comes of it."""

from typing import Any

import pytest
import torch

from service.errors import Invalid, TooLarge
from service.inference.aiming import check_attack
from service.inference.asking import ask
from service.inference.attacking import AttackRequest, answer
from service.inference.boxes import box_of, missing_row, placed
from service.inference.robustness import Subject
from service.inference.transfer import transfer
from service.tricks.attacks import APGD, FAB, FGSM, PGD, DeepFool, Ladder, Square
from service.tricks.corruption import Missing
from service.tricks.modes import Asking
from service.tricks.perturbation import Source

NUMBER = {"task": "regression", "name": "size"}
WIDE: dict[str, Any] = {"bounds": None}


@pytest.mark.parametrize("kind", [FGSM, PGD, APGD])
def test_a_targeted_attack_on_the_own_label_lowers_the_loss(bench: Any, kind: type) -> None:
    model, x = bench.double(bench.model(hidden=[8])), bench.inputs(60).double()
    found = bench.subject(model, x)
    chosen = (found.labels == 1).nonzero().squeeze(1)
    made = bench.attack(kind, target="b", epsilon=0.05, **WIDE, **({"loss": "cross_entropy"} if kind is APGD else {}))
    loss = found.loss(chosen, FGSM(epsilon=0.1))
    assert bool((loss(found.attack(made).moved[chosen]) < loss(x[chosen])).all())


def test_a_target_is_reached_and_only_that_is_success(bench: Any) -> None:
    model, x = bench.model(hidden=[8]), bench.inputs(60)
    found = bench.subject(model, x)
    for target in ("c", "least_likely"):
        made = PGD(epsilon=2.0, target=target, loss="margin", steps=30)
        goals = found.clean.probabilities.argmin(-1) if target == "least_likely" else torch.full((60,), 2)
        after = ask(model, found.attack(made).moved, found.axes)["kind"].prediction
        other = goals != found.labels
        assert float((after == goals)[other].float().mean()) > 0.6
        labels = ["abc"[i] for i in found.labels.tolist()]
        body = {"inputs": x.tolist(), "labels": labels, "attack": {"type": "fgsm", "epsilon": 0.5, "target": target}}
        shown = answer(model, AttackRequest.model_validate(body), most_rows=100)
        reached = [
            said == "abc"[goal] and was != said
            for said, goal, was in zip(shown["targets"]["kind"]["adversarial"]["prediction"], goals, labels, strict=True)
        ]
        assert shown["success"] == reached


def test_a_source_is_followed_and_the_predictor_judges(bench: Any) -> None:
    """Rows made on one member are those of that member alone; the whole is judged."""
    model, x = bench.model(hidden=[16], size=4), bench.inputs(300)
    whole = bench.subject(model, x)
    transferred = whole.attack(PGD(epsilon=0.3, steps=10, random_start=False, source=Source(members=2)))
    direct = whole.attack(PGD(epsilon=0.3, steps=10, random_start=False))
    assert float(direct.standing.float().mean()) < float(transferred.standing.float().mean())
    alone = FGSM(epsilon=0.3, source=Source(members=2))
    member = Subject(model, Asking(members=2).axes(model), x, whole.labels)
    chosen = (whole.right & member.right).nonzero().squeeze(1)
    assert torch.equal(whole.attack(alone).moved[chosen], member.attack(FGSM(epsilon=0.3)).moved[chosen])
    after = ask(model, transferred.moved, whole.axes)["kind"].prediction
    assert torch.equal(after == whole.labels, transferred.standing)


def test_transfer_between_members_is_weaker_than_on_oneself(bench: Any) -> None:
    model, x = bench.model(hidden=[16], size=3), bench.inputs(200)
    found = transfer(bench.subject(model, x), FGSM(epsilon=0.0), (0.0, 0.3))
    assert found is not None
    table = torch.tensor(found["accuracy"])
    assert (found["epsilon"], found["members"], table.shape) == (0.3, [0, 1, 2], (3, 3))
    off = (table.sum() - table.trace()) / 6
    assert float(table.trace() / 3) < float(off) - 0.05
    assert found["direct"] < min(found["together"])
    assert transfer(bench.subject(bench.model(), x), FGSM(epsilon=0.0), (0.3,)) is None


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_epsilon_in_standard_deviations_is_that_many_of_them(bench: Any, norm: Any) -> None:
    """The bench's inputs have a standard deviation of 2, so that half of epsilon in it is all of it raw."""
    model, x = bench.double(bench.model(hidden=[5])), bench.inputs(40).double()
    found = bench.subject(model, x)
    for kind in (FGSM, PGD, FAB):
        std = found.attack(bench.attack(kind, norm=norm, epsilon=0.2, unit="std")).moved
        raw = found.attack(bench.attack(kind, norm=norm, epsilon=0.4)).moved
        if kind is FGSM:
            torch.testing.assert_close(std, raw, rtol=0, atol=1e-9)
        box = placed(FGSM(epsilon=0.2, norm=norm, unit="std"), model)
        assert bool((box.measured(std - x, FGSM(epsilon=0.2, norm=norm).ball) <= 0.2 * (1 + 1e-6)).all())
        assert bool(((std >= -2) & (std <= 3)).all())
    still = found.attack(bench.attack(PGD, epsilon=0.2, unit="std", immutable=("n1",))).moved
    assert torch.equal(still[:, 1], x[:, 1])


def test_bounds_of_single_fields(bench: Any) -> None:
    box = box_of(FGSM(epsilon=1.0, bounds={"n1": (0.0, 0.5)}), bench.encoding(3))
    assert box.low is not None
    assert box.high is not None
    assert (box.low.tolist(), box.high.tolist()) == ([-2.0, 0.0, -2.0], [3.0, 0.5, 3.0])


WRONG: dict[str, tuple[Any, str, str]] = {
    "no such class": (FGSM(epsilon=1.0, target="z"), "unknown-choice", "/attack/target"),
    "no such member": (FGSM(epsilon=1.0, source=Source(members=5)), "value-out-of-range", "/attack/source/members"),
    "no such field": (FGSM(epsilon=1.0, bounds={"x": (0.0, 1.0)}), "inconsistent-spec", "/attack/bounds/x"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_suit_the_model_has_its_place(bench: Any, name: str) -> None:
    attack, code, pointer = WRONG[name]
    model = bench.model(size=2)
    with pytest.raises(Invalid) as caught:
        check_attack(attack, model, Asking().axes(model), "kind")
    assert [(flaw.code, flaw.pointer) for flaw in caught.value.flaws] == [(code, pointer)]


def test_a_number_has_neither_class_nor_boundary(bench: Any) -> None:
    model = bench.model(NUMBER)
    refused: list[tuple[Any, str]] = [
        (kind, "/attack/type") for kind in (FAB(epsilon=1.0), DeepFool(epsilon=1.0), APGD(epsilon=1.0, targets=3))
    ]
    for attack, pointer in [*refused, (FGSM(epsilon=1.0, target="least_likely"), "/attack/target")]:
        with pytest.raises(Invalid) as caught:
            check_attack(attack, model, Asking().axes(model), "size")
        assert caught.value.flaws[0].pointer == pointer


@pytest.mark.parametrize("kind", [PGD, APGD, Square, Ladder])
def test_errors_of_numbers_are_raised_by_every_attack(bench: Any, kind: type) -> None:
    model, x = bench.model(NUMBER, hidden=[5]), bench.inputs(30)
    found = Subject(model, Asking().axes(model), x, torch.linspace(0, 9, 30).unsqueeze(1))
    before, after = (torch.tensor(found.errors(rows)) for rows in (x, found.attack(bench.attack(kind)).moved))
    assert bool((after >= before - 1e-5).all()) or kind is Square
    assert float(after.mean()) > float(before.mean())


def test_missing_fields_look_as_missing_ones_do(bench: Any) -> None:
    encoding = bench.encoding(3, categories=[["red", "green"]])
    blank, fields = missing_row(encoding)
    assert (blank.tolist(), fields.tolist()) == ([0.0] * 5, [0, 1, 2, 3, 3])
    x = torch.cat([bench.inputs(4000, 3) + 10, torch.eye(2)[torch.arange(4000) % 2]], dim=1)
    model = bench.model(encoding=encoding)
    moved = bench.subject(model, x).attack(Missing(severity=3)).moved
    gone = moved == blank
    for column in range(3):
        assert abs(float(gone[:, column].float().mean()) - 0.3) < 4 * (0.21 / 4000) ** 0.5
    whole = gone[:, 3:].all(1)
    assert abs(float(whole.float().mean()) - 0.3) < 4 * (0.21 / 4000) ** 0.5
    assert torch.equal(moved[~gone], x[~gone])
    body = {"inputs": [[1.0, 2.0, 3.0, "red"]] * 50, "labels": ["a"] * 50, "attack": {"type": "missing", "severity": 5}}
    shown = answer(model, AttackRequest.model_validate(body), most_rows=100)["inputs"]
    assert {row[3] for row in shown} <= {"red", None}


@pytest.mark.parametrize(
    "attack", [{"type": "square", "queries": 10**6}, {"type": "fab", "steps": 10_000, "classes": 50}, {"type": "ladder", "queries": 10**6}]
)
def test_too_much_work_names_the_job(bench: Any, attack: dict[str, Any]) -> None:
    body = {"inputs": bench.inputs(3).tolist(), "labels": ["a"] * 3, "attack": {"epsilon": 0.1, **attack}}
    with pytest.raises(TooLarge, match="robustness"):
        answer(bench.model(), AttackRequest.model_validate(body), most_rows=10)
