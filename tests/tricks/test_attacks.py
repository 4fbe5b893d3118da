"""Attacks on losses whose optimum is known, and what every attack has to keep: the ball, the box, the rows."""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.tricks.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    Attack,
    Box,
    Corruption,
    DeepFool,
    GaussianNoise,
    Ladder,
    RandomSign,
    Square,
    UniformNoise,
)  # fmt: skip
from service.tricks.criteria import CriterionName, criterion
from service.tricks.norms import NORMS
from service.tricks.perturbation import Look

# How to make each attack; whether it follows a gradient; whether its perturbation is bounded under linf.
ATTACKS: dict[type, tuple[dict[str, Any], bool, bool]] = {
    GaussianNoise: ({}, False, False),
    UniformNoise: ({}, False, True),
    RandomSign: ({}, False, True),
    FGSM: ({}, True, True),
    PGD: ({"steps": 10, "restarts": 2}, True, True),
    APGD: ({"steps": 10, "restarts": 2}, True, True),
    DeepFool: ({"steps": 5}, True, True),
    FAB: ({"steps": 5}, True, True),
    Square: ({"queries": 100}, False, True),
    Ladder: ({"steps": 5, "queries": 20}, True, True),
}
KINDS = list(ATTACKS)
N, FEATURES = 40, 6


def attack(kind: type, **fields: Any) -> Any:
    return kind(**{**ATTACKS[kind][0], "epsilon": 0.3, **fields})


def rows(seed: int = 0, n: int = N) -> Tensor:
    return torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(seed))


class Binary:
    """Two classes told apart by the sign of an output; the loss is a criterion of scores that lie that output apart."""

    signs: Tensor

    def output(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def margin(self, x: Tensor) -> Tensor:
        return self.signs * self.output(x)

    @property
    def right(self) -> Tensor:
        return (self.signs > 0).long()

    def scores(self, x: Tensor) -> Tensor:
        output = self.output(x)
        return torch.stack([torch.zeros_like(output), output], dim=1)

    def under(self, name: CriterionName) -> Any:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        return self.looked(x)[0]

    def looked(self, x: Tensor) -> Look:
        loss = criterion("margin", self.scores(x), self.right)
        return Look(loss, loss.detach() >= 0, torch.zeros(len(x), dtype=torch.bool))


@dataclass(frozen=True)
class Linear(Binary):
    """A margin that has to stay positive: y (w x + b); its negative is the loss."""

    weight: Tensor
    signs: Tensor
    bias: float = 0.0

    def output(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias

    def broken(self, x: Tensor) -> Tensor:
        return self.margin(x) <= 0

    def only(self, chosen: Tensor) -> "Linear":
        return replace(self, signs=self.signs[chosen])


@dataclass(frozen=True)
class Bumpy(Binary):
    """A network of two random layers; a row is broken when its output changes sign. Rows that were asked about are noted."""

    first: Tensor
    second: Tensor
    signs: Tensor
    numbers: Tensor
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def random(cls, x: Tensor, seed: int = 0) -> "Bumpy":
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(x.shape[1], 16, generator=generator, dtype=x.dtype) * 2
        second = torch.randn(16, generator=generator, dtype=x.dtype)
        return cls(first, second, torch.sign(torch.sin(x @ first) @ second), torch.arange(len(x)))

    def output(self, x: Tensor) -> Tensor:
        return torch.sin(x @ self.first) @ self.second

    def looked(self, x: Tensor) -> Look:
        self.asked.append((self.numbers, x.detach().clone()))
        return super().looked(x)

    def broken(self, x: Tensor) -> Tensor:
        return self.margin(x) <= 0

    def only(self, chosen: Tensor) -> "Bumpy":
        return replace(self, signs=self.signs[chosen], numbers=self.numbers[chosen])


def linear(x: Tensor, weight: Tensor | None = None) -> Linear:
    """A linear predictor that is right about every row."""
    weight = torch.tensor([0.5, -1.0, 2.0, 0.0, -0.25, 0.1], dtype=x.dtype) if weight is None else weight
    return Linear(weight, torch.sign(x @ weight + 0.1), 0.1)


def dual(norm: str, weight: Tensor) -> float:
    return float({"linf": weight.abs().sum(), "l2": weight.norm(), "l1": weight.abs().max()}[norm])


def test_every_attack_is_in_the_table() -> None:
    assert set(ATTACKS) == {kind for kind in get_args(get_args(Attack)[0]) if not issubclass(kind, Corruption)}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [1e-6, 0.3, 10.0])
def test_fgsm_takes_epsilon_times_the_dual_norm_from_a_linear_margin(norm: Any, epsilon: float) -> None:
    x = rows().double()
    loss = linear(x)
    moved = FGSM(epsilon=epsilon, norm=norm)(x, loss, Box()).inputs
    expected = loss.margin(x) - epsilon * dual(norm, loss.weight)
    torch.testing.assert_close(loss.margin(moved), expected, rtol=0, atol=2e-15 * max(1.0, 10 * epsilon))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_reaches_the_same_optimum(norm: Any, random_start: bool) -> None:
    x = rows().double()
    loss = replace(linear(x), bias=100.0, signs=torch.ones(N, dtype=torch.float64))
    moved = PGD(epsilon=0.3, norm=norm, steps=60, step_size=0.1, random_start=random_start)(x, loss, Box()).inputs
    torch.testing.assert_close(loss.margin(moved), loss.margin(x) - 0.3 * dual(norm, loss.weight), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [FGSM, PGD])
@pytest.mark.parametrize("norm", NORMS)
def test_entries_that_must_not_move_cost_nothing_of_the_budget(kind: type, norm: Any) -> None:
    """The best perturbation of the movable entries alone: epsilon times the dual norm of their weights."""
    x = rows().double()
    loss = replace(linear(x), bias=100.0, signs=torch.ones(N, dtype=torch.float64))
    movable = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    made = attack(kind, norm=norm, **({"steps": 200, "step_size": 0.05} if kind is PGD else {}))
    moved = made(x, loss, Box(movable=movable)).inputs
    torch.testing.assert_close(
        loss.margin(x) - loss.margin(moved), torch.full((N,), 0.3 * dual(norm, loss.weight * movable)).double(), rtol=1e-6, atol=0
    )


def test_noise_on_movable_entries_has_the_length_it_was_asked_for() -> None:
    movable = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    for kind in (GaussianNoise, RandomSign):
        moved = attack(kind, norm="l2")(rows(), linear(rows()), Box(movable=movable)).inputs
        torch.testing.assert_close((moved - rows()).norm(dim=1), torch.full((N,), 0.3), rtol=1e-5, atol=0)


def test_a_saturated_entry_does_not_stop_the_gradient() -> None:
    """Clipping lies outside the graph: an entry at its bound still comes back when that helps."""
    x = torch.ones(1, FEATURES)
    loss = Linear(torch.full((FEATURES,), 1.0), torch.tensor([1.0]), 1.0)
    box = Box(torch.tensor(-1.0), torch.tensor(1.0))
    for kind in (FGSM, PGD):
        moved = attack(kind)(x, loss, box).inputs
        torch.testing.assert_close(moved, x - 0.3, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20])
@pytest.mark.parametrize("norm", NORMS)
def test_the_size_of_the_loss_does_not_matter(norm: Any, size: float) -> None:
    x = rows()
    loss = linear(x, torch.tensor([3.0, -4.0, 0.0, 0.0, 0.0, 0.0]))
    scaled = replace(loss, weight=loss.weight * size, bias=0.0)
    moved = FGSM(epsilon=0.3, norm=norm)(x, scaled, Box())
    torch.testing.assert_close(
        loss.margin(x) - loss.margin(moved.inputs), torch.full((N,), 0.3 * dual(norm, loss.weight)), rtol=1e-4, atol=0
    )
    assert not bool(moved.zero_gradients.any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_vanishing_gradients_are_counted_and_harmless(kind: type, norm: Any) -> None:
    x = rows()
    weight = torch.zeros(FEATURES)
    flat = Linear(weight, torch.ones(N), 1.0)
    found = attack(kind, norm=norm)(x, flat, Box())
    assert bool(found.inputs.isfinite().all())
    if ATTACKS[kind][1]:
        assert bool(found.zero_gradients.all())
        assert not bool(attack(kind, norm=norm)(x, linear(x), Box()).zero_gradients.any())
    else:
        assert found.zero_gradients is None


def ulp(x: Tensor, other: Tensor) -> Tensor:
    """The distance to the next float32, at the larger of two numbers."""
    largest = torch.maximum(x.abs(), other.abs())
    return (torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest).double()


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(KINDS),
    norm=st.sampled_from(sorted(NORMS)),
    epsilon=st.sampled_from([1e-7, 0.01, 0.3, 1.0, 50.0]),
    bounded=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 255.0]),
    seed=st.integers(0, 20),
)
def test_the_ball_the_box_and_the_rows(kind: type, norm: Any, epsilon: float, bounded: bool, scale: float, seed: int) -> None:
    x = rows(seed) * scale
    low, high = (x.amin(0), x.amax(0)) if bounded else (None, None)
    movable = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    before = x.clone()
    made = attack(kind, norm=norm, epsilon=epsilon, seed=seed)
    moved = made(x, Bumpy.random(x, seed), Box(low, high, movable)).inputs
    assert torch.equal(x, before), "the rows themselves are left alone"
    assert torch.equal(moved[:, movable == 0], x[:, movable == 0]), "what must not move does not, bit by bit"
    if low is not None and high is not None:
        assert bool(((moved >= low) & (moved <= high)).all()), "bounds hold exactly"
    if norm == "linf" and not ATTACKS[kind][2]:
        return
    delta = moved.double() - x.double()
    slack = ulp(x, moved)
    if norm == "linf":
        assert bool((delta.abs() <= epsilon * (1 + 1e-7) + slack).all())
    elif norm == "l1":
        assert bool((delta.abs().sum(1) <= epsilon * (1 + 1e-6) + slack.sum(1)).all())
    else:
        assert bool((delta.norm(dim=1) <= epsilon * (1 + 1e-6) + slack.norm(dim=1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: type) -> None:
    x = rows()
    first, again, other = (attack(kind, seed=seed)(x, Bumpy.random(x), Box()).inputs for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind in (FGSM, DeepFool, FAB)), "the others draw something"


def test_a_row_outside_the_bounds_goes_no_further() -> None:
    x = torch.tensor([[-3.0, 0.5, 3.0]])
    box = Box(torch.tensor(-1.0), torch.tensor(1.0))
    assert box.apply(x, torch.tensor([[-1.0, 0.2, 1.0]])).tolist() == [[-3.0, pytest.approx(0.7), 3.0]]
    assert box.apply(x, torch.tensor([[1.0, 1.0, -1.0]])).tolist() == [[-2.0, 1.0, 2.0]]
    assert torch.equal(box.apply(x, torch.zeros_like(x)), x)


# --- noise ----------------------------------------------------------------------------------------------------------


def test_gaussian_noise_has_sigma_epsilon() -> None:
    x = torch.zeros(4000, 50)
    noise = GaussianNoise(epsilon=0.7)(x, linear(rows()), Box()).inputs.double()
    assert abs(float(noise.mean())) < 4 * 0.7 / noise.numel() ** 0.5
    assert abs(float(noise.var()) / 0.49 - 1) < 4 * (2 / noise.numel()) ** 0.5
    torch.testing.assert_close(GaussianNoise(epsilon=0.7, norm="l2")(x, linear(rows()), Box()).inputs.norm(dim=1), torch.full((4000,), 0.7))


def test_random_signs_use_the_whole_ball() -> None:
    x = torch.zeros(4000, 50)
    moved = RandomSign(epsilon=0.25)(x, linear(rows()), Box()).inputs
    assert set(moved.unique().tolist()) == {-0.25, 0.25}
    assert abs(float(moved.double().mean())) < 4 * 0.25 / moved.numel() ** 0.5
    torch.testing.assert_close(RandomSign(epsilon=0.25, norm="l2")(x, linear(rows()), Box()).inputs.norm(dim=1), torch.full((4000,), 0.25))


# --- projected gradient descent -------------------------------------------------------------------------------------


def standing(made: Any, x: Tensor, seed: int = 0) -> Tensor:
    loss = Bumpy.random(x, seed)
    return ~loss.broken(made(x, loss, Box()).inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_and_more_restarts_never_save_a_row(norm: Any) -> None:
    x = rows(3, 200).double()
    epsilon = 0.08 if norm == "linf" else 0.2
    for restarts in (1, 3):
        ladder = [standing(PGD(epsilon=epsilon, norm=norm, steps=steps, step_size=0.02, restarts=restarts), x) for steps in (1, 2, 5, 20)]
        for fewer, more in itertools.pairwise(ladder):
            assert not bool((more & ~fewer).any())
        assert int(ladder[-1].sum()) < int(ladder[0].sum())
    once, often = (standing(PGD(epsilon=epsilon, norm=norm, steps=5, step_size=0.02, restarts=restarts), x) for restarts in (1, 5))
    assert not bool((often & ~once).any())


def test_a_broken_row_is_left_alone_at_once() -> None:
    x = rows(3, 100).double()
    loss = Bumpy.random(x)
    moved = PGD(epsilon=0.2, steps=10, restarts=3)(x, loss, Box()).inputs
    # The first iterate that breaks a row is the answer, and the predictor is never asked about the row again.
    broken = loss.broken(moved)
    assert 0 < int(broken.sum()) < 100
    last = {int(number): i for i, (numbers, _) in enumerate(loss.asked) for number in numbers}
    for i, (numbers, asked) in enumerate(loss.asked):
        fell = Bumpy.random(x).only(numbers).broken(asked)
        assert all(last[int(number)] == i for number in numbers[fell])
    assert max(last[int(i)] for i in broken.nonzero()) >= 1
    assert all(last[int(i)] == len(loss.asked) - 1 for i in (~broken).nonzero()), "all others are attacked to the end"


def test_rows_that_are_wrong_already_are_not_attacked() -> None:
    x = rows(0, 50).double()
    loss = Bumpy.random(x)
    wrong = replace(loss, signs=torch.where(torch.arange(50) % 2 == 0, -loss.signs, loss.signs))
    moved = PGD(epsilon=0.5, steps=5)(x, wrong, Box()).inputs
    assert torch.equal(moved[::2], x[::2])
    assert not torch.equal(moved[1::2], x[1::2])


def test_pgd_breaks_what_fgsm_breaks_not() -> None:
    x = rows(5, 200).double()
    fgsm, pgd = standing(FGSM(epsilon=0.15), x), standing(PGD(epsilon=0.15, steps=20, restarts=3), x)
    assert float(pgd.double().mean()) < float(fgsm.double().mean()) - 0.05
