"""Checks that tell an attack that failed from a model that resists."""

from typing import Any

import pytest
import torch
from torch import Tensor

from service.inference.curves import curve
from service.inference.diagnostics import NAMES, Check, check, verdict
from service.inference.model import Model
from service.inference.trials import full_range
from service.tricks.attacks import FGSM, PGD


def checked(bench: Any, model: Model, x: Tensor, epsilons: Any = (0.1, 0.3)) -> dict[str, Any]:
    return {each.name: each for each in check(bench.subject(model, x), (PGD(epsilon=0.0),), epsilons)}


def test_an_honest_model_passes(bench: Any) -> None:
    found = checked(bench, bench.model(hidden=[8]), bench.inputs(100))
    assert tuple(found) == NAMES
    assert all(each.passed for each in found.values()), found


def test_saturated_logits_are_seen_through(bench: Any) -> None:
    """Large logits have no gradient in float32: FGSM finds nothing where there is no defence."""
    plain, x = bench.model(hidden=[8]), bench.inputs(100)
    loud = bench.model(hidden=[8], logit_scale=1e5)
    fgsm = FGSM(epsilon=0.5)
    assert bench.subject(loud, x).attack(fgsm)[1].float().mean() > bench.subject(plain, x).attack(fgsm)[1].float().mean() + 0.1
    share = curve(bench.subject(loud, x), fgsm, (0.5,))[0]["flat"] / 100
    assert share > 0.5
    found = checked(bench, loud, x)
    assert not found["zero_gradients"].passed
    assert found["zero_gradients"].value == pytest.approx(share)
    assert "exactly zero" in found["zero_gradients"].message
    assert verdict(list(found.values()))["reliable"] is False
    # A margin keeps its gradient.
    margin = bench.subject(loud, x).attack(PGD(epsilon=0.5, loss="margin"))[1].float().mean()
    assert margin < bench.subject(loud, x).attack(PGD(epsilon=0.5))[1].float().mean() - 0.1


def gorge(bench: Any, training: dict[str, Any]) -> Model:
    """One input and a margin that is positive at 0 and at .3, and negative only between .11 and .19: too narrow for one step."""
    spec = {"adversarial_training": training} if training else {}
    model = bench.model(encoding=bench.encoding(1), hidden=[3], spec=spec)
    network, layer = model.networks[0], model.networks[0].trunk.hidden[0].linear
    with torch.no_grad():
        # Normalized inputs are (x - 0.5) / 2.
        layer.weight.fill_(2.0)
        layer.bias.copy_(torch.tensor([10.5, 0.4, 0.35]))
        network.heads[0].weight.zero_()
        network.heads[0].weight[0] = torch.tensor([-1.0, -40.0, 80.0])
        network.heads[0].bias.copy_(torch.tensor([10.5, 0.0, -1e9]))
    return model


def test_catastrophic_overfitting_is_named(bench: Any) -> None:
    """FGSM finds nothing and PGD everything: alarming after FGSM training, the attack's strength elsewhere."""
    x = torch.linspace(-0.02, 0.02, 40).unsqueeze(1)
    fgsm, pgd = (bench.subject(gorge(bench, {}), x).attack(each)[1] for each in (FGSM(epsilon=0.3), PGD(epsilon=0.3, steps=20)))
    assert bool(fgsm.all())
    assert not bool(pgd.any())
    assert checked(bench, gorge(bench, {}), x, epsilons=(0.3,))["fgsm_weaker_than_pgd"].passed
    trained = checked(bench, gorge(bench, {"method": "fgsm", "epsilon": 0.3}), x, epsilons=(0.3,))["fgsm_weaker_than_pgd"]
    assert not trained.passed
    assert trained.value == 1.0
    assert "catastrophic overfitting" in trained.message


VERDICTS = {
    "all hold, some are missing": ([True] * 8, None),
    "one failed": ([True, False], False),
    "all nine hold": ([True] * 9, True),
    "all ran, one failed": ([True] * 8 + [False], False),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict(name: str) -> None:
    passed, reliable = VERDICTS[name]
    checks = [Check(each, held, 0.0, "") for each, held in zip(NAMES, passed, strict=False)]
    found = verdict(checks)
    assert found["reliable"] is reliable
    assert found["reasons"] == [each.name for each in checks if not each.passed]
    assert [shown["name"] for shown in found["checks"]] == [each.name for each in checks]


def test_nothing_is_checked_without_a_perturbation_or_a_right_row(bench: Any) -> None:
    model, x = bench.model(), bench.inputs()
    assert check(bench.subject(model, x), (PGD(epsilon=0.0),), (0.0,)) == []
    labels = (bench.subject(model, x).labels + 1) % 3
    assert check(bench.subject(model, x, labels), (PGD(epsilon=0.0),), (0.1,)) == []


def test_the_full_range_reaches_any_input(bench: Any) -> None:
    assert full_range(bench.encoding(4), "linf") == 5.0
    assert full_range(bench.encoding(4), "l2") == pytest.approx(10.0)
    assert full_range(bench.encoding(shape=(3, 3)), "l2") == pytest.approx(15.0)
    assert full_range(bench.encoding(2, categories=[["a", "b"]]), "l2") == pytest.approx(50**0.5)
