"""Twelve nets of which it is known whether their robustness can be believed."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from service.inference.diagnostics import NAMES, check, verdict
from service.inference.robustness import Subject
from service.tricks.attacks import APGD, PGD, UniformNoise
from tests.inference import zoo
from tests.inference.zoo import HONEST, MASKED

STRONG = (PGD(epsilon=0.0, steps=20, loss="margin"), APGD(epsilon=0.0, steps=20))


def judged(subject: Subject, attacks: Any = STRONG, epsilons: Any = (0.0, 2.0)) -> dict[str, Any]:
    return verdict(check(subject, attacks, epsilons))


@pytest.mark.parametrize("net", MASKED, ids=lambda net: net.__name__)
def test_a_masked_net_is_found_out_for_what_it_is(net: Callable[[], Subject]) -> None:
    said = judged(net())
    assert said["reliable"] is False
    assert MASKED[net] <= {*said["reasons"]}, said


@pytest.mark.parametrize("net", HONEST, ids=lambda net: net.__name__)
def test_an_honest_net_is_reliable(net: Callable[[], Subject]) -> None:
    said = judged(net())
    assert said["reliable"] is True, said
    assert [each["name"] for each in said["checks"]] == [*NAMES]
    assert said["reasons"] == []


def test_the_zoo_has_six_of_each() -> None:
    assert (len(MASKED), len(HONEST)) == (6, 6)


def test_probabilities_in_place_of_logits_are_named() -> None:
    spec = zoo.spec_of()
    net = zoo.trained(spec)
    net.heads[0] = nn.Sequential(net.heads[0], nn.Softmax(-1))
    said = judged(zoo.subject(zoo.model_of(spec, net), 40))
    assert "logits_attacked" in said["reasons"]


def test_one_mask_is_no_expectation() -> None:
    spec = zoo.spec_of(architecture={"dropout": {"hidden": 0.3}})
    said = judged(zoo.subject(zoo.model_of(spec, zoo.trained(spec)), 40, members="best", dropout="sampled"))
    assert "passes_agree" in said["reasons"]


def test_a_job_of_noise_alone_is_not_the_last_word() -> None:
    """What it leaves standing falls to an attack: the job's own figure is no robustness."""
    said = judged(zoo.linear(), (UniformNoise(epsilon=0.0),))
    assert said["reasons"] == ["converged"]
