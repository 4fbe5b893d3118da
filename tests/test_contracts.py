"""What holds of every kind in every union: a new class is tested by being in the list."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from service.catalog import PARTS, UNIONS, catalog, entry, example, kinds, schema_of, tag_of
from service.flaws import flaws_of
from service.nets.mlp import MLP
from service.nets.network import Network, NetworkSpec, Scale
from service.settings import Settings
from service.tricks.attacks import Attack, Box, Perturbation
from service.tricks.augmentation import Augmentation
from service.tricks.criteria import CriterionName, criterion
from service.tricks.multitask import Classification
from service.tricks.normalization import Normalize
from service.tricks.optimization import MOMENTS, Optimizer, Schedule
from service.tricks.penalties import L0, Regularizer, Share, Tie
from service.tricks.perturbation import Look
from service.tricks.proximal import Metric, Scales
from service.tricks.streams import Draws, row_keys
from service.values import Value

EVERY = [(union, kind) for union, members in UNIONS.items() for kind in kinds(members)]
NAMES = [f"{union}-{tag_of(kind)[1]}" for union, kind in EVERY]
each = pytest.mark.parametrize(("union", "kind"), EVERY, ids=NAMES)


def test_every_union_has_kinds_and_no_name_twice() -> None:
    for union, members in UNIONS.items():
        names = [tag_of(kind)[1] for kind in kinds(members)]
        assert names, union
        assert len(set(names)) == len(names), union


@each
def test_the_example_is_read_by_its_union_and_written_back(union: str, kind: type[Value]) -> None:
    reader = TypeAdapter[Value](UNIONS[union])
    value = reader.validate_python(example(kind))
    assert type(value) is kind
    shown = value.dump()
    assert {*example(kind)} <= {*shown}
    assert reader.validate_python(shown) == value


@each
def test_values_are_frozen(union: str, kind: type[Value]) -> None:
    value = kind.model_validate(example(kind))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, tag_of(kind)[0], "other")


@each
def test_an_unknown_field_is_refused_by_its_place(union: str, kind: type[Value]) -> None:
    sent = {**example(kind), "wether": 1}
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(UNIONS[union]).validate_python(sent)
    (flaw,) = flaws_of(refused.value, sent, model=UNIONS[union])
    assert (flaw.pointer, flaw.code) == ("/wether", "unknown-field")


@pytest.mark.parametrize("union", UNIONS)
def test_an_unknown_kind_is_refused_with_what_there_is(union: str) -> None:
    first = kinds(UNIONS[union])[0]
    tag, name = tag_of(first)
    sent = {tag: "no_such_kind"}
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(UNIONS[union]).validate_python(sent)
    (flaw,) = flaws_of(refused.value, sent, model=UNIONS[union])
    assert (flaw.pointer, flaw.code) == (f"/{tag}", "unknown-choice")
    assert name in flaw.message


def numbers(schema: Any) -> list[dict[str, Any]]:
    """Every schema of a number, without those inside definitions of other kinds."""
    if isinstance(schema, dict):
        here = [schema] if schema.get("type") in ("number", "integer") and "enum" not in schema and "const" not in schema else []
        return here + [found for key, part in schema.items() if key not in ("$defs", "default", "examples") for found in numbers(part)]
    return [found for part in schema for found in numbers(part)] if isinstance(schema, list) else []


@pytest.mark.parametrize("part", [*(kind for _, kind in EVERY), *PARTS.values()], ids=[*NAMES, *PARTS])
def test_every_field_has_a_description_and_every_number_a_bound(part: type[Value]) -> None:
    assert part.__doc__
    for name, field in schema_of(part)["properties"].items():
        assert field.get("description"), name
        for number in numbers(field):
            assert {"minimum", "exclusiveMinimum", "maximum"} & number.keys(), (name, number)


def test_the_catalog_lists_every_kind() -> None:
    shown = catalog(Settings())
    for union, members in UNIONS.items():
        assert shown[union] == [entry(kind) for kind in kinds(members)]
    assert shown["limits"]["max_members"] == 200
    assert [mode["mode"] for mode in shown["modes"]] == ["single", "weight_scaled", "monte_carlo", "exact", "ensemble"]


def network() -> Network:
    torch.manual_seed(0)
    spec = NetworkSpec(MLP(hidden=(5,)), (6,), (Classification(name="label"),), (3,))
    return Network(spec, Normalize(torch.zeros(1), torch.ones(1)), [Scale(torch.zeros(1), torch.ones(1))], torch.Generator().manual_seed(0))


class Loss:
    """Cross-entropy of a small network."""

    def __init__(self, labels: torch.Tensor, name: CriterionName = "cross_entropy") -> None:
        self.network, self.labels, self.name = network(), labels, name

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.looked(x)[0]

    def looked(self, x: torch.Tensor) -> Look:
        return Look(criterion(self.name, self.scores(x), self.labels), *torch.ones(2, len(x), dtype=torch.bool))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)["label"]

    @property
    def right(self) -> torch.Tensor:
        return self.labels

    def under(self, name: CriterionName) -> "Loss":
        return Loss(self.labels, name)

    def broken(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.network(x)["label"].argmax(-1) != self.labels

    def only(self, chosen: torch.Tensor) -> "Loss":
        return Loss(self.labels[chosen], self.name)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", [kind for kind in kinds(Attack) if issubclass(kind, Perturbation)], ids=lambda kind: tag_of(kind)[1])
def test_every_attack_keeps_its_ball_its_box_and_what_may_not_move(kind: Any, norm: Any) -> None:
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
    loss = Loss(network()(x)["label"].argmax(-1))
    movable = torch.tensor([1.0, 1, 1, 1, 0, 1])
    # What holds after a few points holds after thousands.
    attack = kind(epsilon=0.3, norm=norm, **({"queries": 100} if "queries" in kind.model_fields else {}))
    moved = attack(x, loss, Box(torch.zeros(6), torch.ones(6), movable)).inputs
    assert moved.shape == x.shape
    assert (moved >= 0).all()
    assert (moved <= 1).all()
    assert torch.equal(moved[:, 4], x[:, 4])
    assert not torch.equal(moved, x)
    if not (attack.type == "gaussian_noise" and norm == "linf"):
        assert attack.ball.length(moved - x).max() <= 0.3 * (1 + 1e-5)
    assert torch.equal(attack(x, loss, Box(torch.zeros(6), torch.ones(6), movable)).inputs, moved)


@pytest.mark.parametrize("kind", kinds(Optimizer), ids=lambda kind: tag_of(kind)[1])
def test_every_optimizer_lowers_a_loss_and_goes_into_a_checkpoint(kind: Any) -> None:
    w = torch.nn.Parameter(torch.tensor([[3.0, -2.0]]))
    optimizer = kind(learning_rate=0.05).build([w], [])
    losses = []
    for _ in range(30):
        loss = w.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moments = [state[MOMENTS] for state in [optimizer.state[w]] if MOMENTS in state]
    found = kind().metric(optimizer, Scales([w.detach()], moments))
    assert found.length > 0
    assert all((scale > 0).all() for scale in found.scales)
    again = kind(learning_rate=0.05).build([torch.nn.Parameter(w.detach().clone())], [])
    again.load_state_dict(optimizer.state_dict())
    assert str(again.state_dict()) == str(optimizer.state_dict())


@pytest.mark.parametrize("kind", kinds(Schedule), ids=lambda kind: tag_of(kind)[1])
def test_every_schedule_stays_between_none_and_the_whole_rate(kind: Any) -> None:
    schedule = kind.model_validate(example(kind))
    factors = [schedule.multiplier(step, steps_per_epoch=10, steps=400) for step in range(401)]
    assert factors[0] == 1.0
    assert all(0.0 <= later <= earlier <= 1.0 for earlier, later in pairwise(factors))


@pytest.mark.parametrize("kind", [kind for kind in kinds(Regularizer) if kind not in (L0, Tie, Share)], ids=lambda kind: tag_of(kind)[1])
def test_every_penalty_shrinks_and_leaves_zero_alone(kind: Any) -> None:
    penalty = kind.model_validate({name: 0.5 if isinstance(value, float) else value for name, value in example(kind).items()})
    w = torch.nn.Parameter(torch.tensor([[3.0, -2.0], [0.0, 0.0]]))
    w.grad = torch.zeros_like(w)
    with torch.no_grad():
        penalty.add_gradient([w])
        w -= 0.1 * w.grad
        penalty.shrink([w], learning_rate=0.1, metric=Metric(0.1, [torch.tensor(1.0)]))
    assert 0 < w[0].norm() < 13**0.5
    assert torch.equal(w[1], torch.zeros(2))
    assert float(penalty.value([w.detach()])) >= 0


@pytest.mark.parametrize("kind", kinds(Augmentation), ids=lambda kind: tag_of(kind)[1])
def test_every_augmentation_changes_a_copy_from_its_stream_alone(kind: Any) -> None:
    transform = kind.model_validate(example(kind))
    x, rows = torch.rand(8, 6, 5, generator=torch.Generator().manual_seed(0)), np.arange(8)[None]
    before = x.clone()
    first, second = (transform(x, Draws(row_keys([3], rows, epoch=1, place=0))) for _ in range(2))
    assert torch.equal(x, before)
    assert torch.equal(first, second)
    assert first.shape == x.shape
    assert not torch.equal(first, x)
    assert kind.model_validate({**example(kind), "probability": 0.0})(x, Draws(row_keys([3], rows, epoch=1, place=0))).equal(x)
    assert [*transform.fits((6, 5)), *transform.fits((6, 5, 3))] == []
