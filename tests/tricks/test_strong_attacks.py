"""APGD, DeepFool, FAB, Square and the ladder: against optima that are known, and against each other."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import linprog, minimize
from torch import Tensor

from service.tricks.apgd import checkpoints
from service.tricks.attacks import APGD, FAB, FGSM, PGD, Box, DeepFool, Ladder, Square
from service.tricks.criteria import CriterionName, criterion
from service.tricks.ladder import RUNGS
from service.tricks.norms import NORMS
from service.tricks.perturbation import Look
from service.tricks.square import share
from tests.tricks.test_attacks import Bumpy, Linear, dual, linear, rows

EPSILON = {"linf": 0.15, "l2": 0.3, "l1": 0.4}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [FGSM, PGD, APGD, DeepFool, FAB, Ladder])
def test_a_linear_row_falls_exactly_where_its_margin_is_within_reach(norm: Any, kind: type) -> None:
    x = rows(2, 150).double()
    loss, epsilon = linear(x), EPSILON[norm]
    # Steps in a straight line from a random start: the sphere's far side is reached by many short ones.
    fields = {PGD: {"steps": 200, "step_size": 0.05}, DeepFool: {"overshoot": 1e-9}, Ladder: {"queries": 10}}.get(kind, {})
    standing = ~loss.broken(kind(epsilon=epsilon, norm=norm, **fields)(x, loss, Box()).inputs)
    reach = epsilon * dual(norm, loss.weight)
    assert torch.equal(standing, loss.margin(x) > reach)
    assert 25 < int(standing.sum()) < 140


@pytest.mark.parametrize("norm", NORMS)
def test_square_nears_the_optimum_of_a_linear_row_and_never_passes_it(norm: Any) -> None:
    x = rows(2, 200).double()
    loss, epsilon = linear(x), EPSILON[norm]
    found = Square(epsilon=epsilon, norm=norm, queries=1000)(x, loss, Box())
    margin, reach = loss.margin(x), epsilon * dual(norm, loss.weight)
    standing = ~loss.broken(found.inputs)
    assert bool(standing[margin > reach].all())
    assert not bool(standing[margin < 0.8 * reach].any())
    assert found.zero_gradients is None


@pytest.mark.parametrize("norm", NORMS)
def test_the_minimal_distance_of_a_linear_row_is_its_margin_over_the_dual_norm(norm: Any) -> None:
    x = rows(4, 200).double()
    loss = linear(x)
    found = FAB(epsilon=1e30, norm=norm)(x, loss, Box())
    torch.testing.assert_close(found.distances, loss.margin(x) / dual(norm, loss.weight), rtol=2e-7, atol=1e-12)
    assert bool(loss.broken(found.inputs).all())


@dataclass(frozen=True)
class Several:
    """Five classes with linear scores, as attacks see them."""

    weight: Tensor
    right: Tensor
    name: CriterionName = "cross_entropy"
    goals: Tensor | None = None

    @classmethod
    def random(cls, x: Tensor, seed: int = 0) -> "Several":
        weight = torch.randn(x.shape[1], 5, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        return cls(weight, (x @ weight).argmax(1))

    def leads(self, x: Tensor) -> Tensor:
        """Of the other classes over the right one, [N, C]; the right one's own is minus infinity."""
        scores = self.scores(x)
        return (scores - scores.gather(1, self.right[:, None])).scatter(1, self.right[:, None], -torch.inf)

    def apart(self, norm: str) -> Tensor:
        """The dual norm of each class's lead [N, C]."""
        between = self.weight.T[None] - self.weight.T[self.right][:, None]
        return {"linf": between.abs().sum(2), "l2": between.norm(dim=2), "l1": between.abs().amax(2)}[norm]

    def scores(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def __call__(self, x: Tensor) -> Tensor:
        return self.looked(x)[0]

    def looked(self, x: Tensor) -> Look:
        loss = criterion(self.name, self.scores(x), self.right, self.goals)
        return Look(loss, *torch.ones(2, len(x), dtype=torch.bool))

    def broken(self, x: Tensor) -> Tensor:
        return (self.leads(x) > 0).any(1)

    def only(self, chosen: Tensor) -> "Several":
        return replace(self, right=self.right[chosen], goals=None if self.goals is None else self.goals[chosen])

    def under(self, name: CriterionName) -> "Several":
        return replace(self, name=name)

    def towards(self, classes: Tensor) -> "Several":
        return replace(self, goals=classes)


@pytest.mark.parametrize("norm", NORMS)
def test_deepfool_ends_a_little_beyond_the_nearest_of_all_boundaries(norm: Any) -> None:
    x = rows(4, 100).double()
    loss = Several.random(x)
    found = DeepFool(epsilon=1e30, norm=norm)(x, loss, Box())
    expected = (-loss.leads(x) / loss.apart(norm)).where(loss.leads(x).isfinite(), torch.inf).amin(1)
    torch.testing.assert_close(found.distances, 1.02 * expected, rtol=1e-9, atol=1e-12)
    assert bool(loss.broken(found.inputs).all())


@pytest.mark.parametrize("norm", NORMS)
def test_within_bounds_deepfool_crosses_a_plane_in_one_step(norm: Any) -> None:
    """A step that bounds only clip would come nearer and nearer to the plane."""
    x = rows(6, 60).double().clamp(-0.9, 0.9)
    loss, box = linear(x), Box(torch.tensor(-1.0), torch.tensor(1.0))
    once = DeepFool(epsilon=1e30, norm=norm, steps=1)(x, loss, box)
    fab = FAB(epsilon=1e30, norm=norm)(x, loss, box)
    crossed = once.distances.isfinite()
    assert float(crossed.double().mean()) > 0.9
    assert bool((loss.margin(once.inputs)[crossed] < 0).all())
    assert bool((once.distances[crossed] <= 1.03 * fab.distances[crossed] + 1e-9).all())


@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_nearer_points_than_deepfool(norm: Any) -> None:
    x = rows(3, 100).double()
    deepfool, fab = (kind(epsilon=1e30, norm=norm)(x, Bumpy.random(x), Box()).distances for kind in (DeepFool, FAB))
    assert bool(deepfool.isfinite().all())
    assert float((fab < deepfool).double().mean()) > 0.9
    assert float(deepfool.mean()) < 3 * float(fab.mean()), "both are about as near"


@pytest.mark.parametrize("loss_name", ["dlr", "margin", "cross_entropy"])
def test_led_to_every_class_in_turn_apgd_breaks_what_any_of_them_can_reach(loss_name: Any) -> None:
    x, epsilon = rows(2, 120).double(), 0.2
    loss = Several.random(x)
    within = loss.leads(x) + epsilon * loss.apart("linf") > 0
    found = {targets: APGD(epsilon=epsilon, steps=50, loss=loss_name, targets=targets)(x, loss, Box()).inputs for targets in (1, 4)}
    standing = {targets: ~loss.broken(moved) for targets, moved in found.items()}
    assert bool(standing[4][~within.any(1)].all()), "no ball holds more"
    assert torch.equal(standing[4], ~within.any(1))
    assert 0 < int(standing[4].sum()) < int(standing[1].sum()) < 120


def test_one_target_and_several_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="in turn"):
        APGD(epsilon=0.1, targets=3, target="a")


def shortest(norm: str, weight: Any, needed: float, low: Any, high: Any) -> float:
    """The length of the shortest d with weight d = needed and low <= d <= high, by scipy."""
    size = len(weight)
    if norm == "l2":
        found = minimize(
            lambda d: float(d @ d), [0.0] * size, jac=lambda d: 2 * d, method="SLSQP", bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda d: float(weight @ d) - needed, "jac": lambda d: weight}, options={"ftol": 1e-14},
        )  # fmt: skip
        return float(found.fun**0.5)
    eye, one = torch.eye(size).tolist(), [1.0] * size
    if norm == "linf":  # d, and one bound t on all of it
        rows_ = [[*row, -1.0] for row in eye] + [[*(-v for v in row), -1.0] for row in eye]
        found = linprog(
            [0.0] * size + [1.0], rows_, [0.0] * 2 * size, [[*weight, 0.0]], [needed], [*zip(low, high, strict=True), (0, None)]
        )
    else:  # d = up - down
        ends = [(0, max(0.0, h)) for h in high] + [(0, max(0.0, -v)) for v in low]
        found = linprog(one + one, A_eq=[[*weight, *(-weight)]], b_eq=[needed], bounds=ends)
    return float(found.fun)


@pytest.mark.parametrize("norm", NORMS)
def test_within_bounds_the_minimal_distance_is_that_of_a_solver(norm: Any) -> None:
    x = rows(6, 30).double().clamp(-0.9, 0.9)
    weight = torch.tensor([0.5, -1.0, 2.0, 0.7, -0.25, 0.1], dtype=torch.float64)
    loss = Linear(weight, torch.sign(x @ weight), 0.0)
    found = FAB(epsilon=1e30, norm=norm)(x, loss, Box(torch.tensor(-1.0), torch.tensor(1.0)))
    for row, distance in zip(x, found.distances, strict=True):
        expected = shortest(norm, weight.numpy(), float(-(row @ weight)), (-1 - row).tolist(), (1 - row).tolist())
        assert float(distance) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(norm=st.sampled_from(sorted(NORMS)), seed=st.integers(0, 1000), share_needed=st.floats(0.01, 0.99))
def test_the_way_to_a_hyperplane_ends_on_it_within_its_room(norm: Any, seed: int, share_needed: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    slope, room = (torch.rand(20, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    needed = share_needed * (slope * room).sum(1)
    way = NORMS[norm].reach(slope, room, needed)
    torch.testing.assert_close((slope * way).sum(1), needed, rtol=1e-9, atol=1e-12)
    assert bool(((way >= 0) & (way <= room)).all())
    beyond = NORMS[norm].reach(slope, room, 2 * (slope * room).sum(1))
    torch.testing.assert_close(beyond, room)


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []


def test_windows_shrink() -> None:
    shares = [share(query, 10_000) for query in range(1, 10_001)]
    assert (shares[0], shares[-1]) == (0.8, 0.8 / 2**9)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_and_the_ladder_break_what_pgd_breaks(norm: Any) -> None:
    x, epsilon = rows(3, 200).double(), EPSILON[norm] / 2
    loss = Bumpy.random(x)

    def left(made: Any) -> float:
        return float((~loss.broken(made(x, loss, Box()).inputs)).double().mean())

    pgd, apgd = left(PGD(epsilon=epsilon, norm=norm, steps=20)), left(APGD(epsilon=epsilon, norm=norm, steps=20))
    square, ladder = left(Square(epsilon=epsilon, norm=norm, queries=500)), left(Ladder(epsilon=epsilon, norm=norm, steps=20, queries=200))
    assert 0 < ladder <= min(pgd, apgd) + 0.01
    assert apgd <= pgd + 0.03
    assert square <= pgd + 0.1


def test_the_ladder_says_which_rung_broke_a_row() -> None:
    x = rows(3, 300).double()
    loss = Bumpy.random(x)
    found = Ladder(epsilon=0.08, steps=20, queries=100)(x, loss, Box())
    assert torch.equal(found.rungs >= 0, loss.broken(found.inputs))
    for number in range(2):
        rung = Ladder(epsilon=0.08, steps=20, queries=100).rungs()[number]
        assert rung.type == RUNGS[number]
        alone = loss.broken(rung(x, loss, Box()).inputs)
        if number == 0:
            assert torch.equal(alone, found.rungs == 0)
        assert bool((found.rungs[alone] <= number).all() | (number > 0))
    assert len(set(found.rungs.tolist())) >= 3


# --- criteria -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-50, 50), targeted=st.booleans())
def test_dlr_knows_neither_scale_nor_shift(seed: int, scale: float, shift: float, targeted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    labels, goals = (torch.randint(0, 5, (30,), generator=generator) for _ in range(2))
    goal = goals if targeted else None
    torch.testing.assert_close(
        criterion("dlr", scale * scores + shift, labels, goal), criterion("dlr", scores, labels, goal), rtol=1e-7, atol=1e-9
    )


def test_a_positive_margin_is_a_won_row() -> None:
    scores = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 5
    for name in ("margin", "dlr"):
        assert torch.equal(criterion(name, scores, labels) > 0, scores.argmax(1) != labels)
    goals = (labels + 1) % 5
    assert torch.equal(criterion("margin", scores, labels, goals) > 0, scores.argmax(1) == goals)
    ahead = scores.gather(1, goals[:, None]) > scores.gather(1, labels[:, None])
    assert torch.equal(criterion("dlr", scores, labels, goals) > 0, ahead.squeeze(1))
    few = scores[:, :2]
    assert torch.equal(criterion("dlr", few, labels % 2), criterion("margin", few, labels % 2))


def test_cross_entropy_is_that_of_torch() -> None:
    scores, labels = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 4
    torch.testing.assert_close(
        criterion("cross_entropy", scores, labels), torch.nn.functional.cross_entropy(scores, labels, reduction="none")
    )
    torch.testing.assert_close(criterion("cross_entropy", scores, labels, labels), -criterion("cross_entropy", scores, labels))
