"""What the report says of scales: constant features, and saturated and dead units with and without normalization."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from service.inference import report_activations
from service.inference.measuring import Inquiry
from service.inference.report_activations import activations, shares
from service.inference.report_normalization import constant_features
from service.nets.activations import ACTIVATIONS, BOUNDS, dead, saturated
from service.tricks.normalization import Preprocessing

SPLIT = {"validation_rows": [4, 5], "test_rows": [6, 7, 8]}
A = [0.5, 1.5, -2.0, 3.0, 1.0, 0.0, 2.0, -1.0, 0.25]


def table(bench: Any, **columns: Any) -> Any:
    """Nine rows: four train, two validate, three test."""
    name = f"scales-{abs(hash(tuple(map(str, columns.items()))))}"
    return bench.material(bench.table(name, {"a": A, **columns, "y": A}, targets=["y"]), split=SPLIT)


# --- constant features ----------------------------------------------------------------------------------------------


def test_a_constant_feature_adds_nothing_in_training_and_its_deviation_elsewhere(bench: Any) -> None:
    found = constant_features(table(bench, c=[7.25] * 5 + [8.25, 7.25, 4.25, 9.25], d=[0.0] * 8 + [3.0]))
    assert found == {
        "count": 2, "train": 0.0, "validation": 0.5, "test": pytest.approx((9 + 4 + 9) / 3),
        "features": [
            {"field": "c", "entry": None, "value": 7.25, "train": 0.0, "validation": 0.5, "test": pytest.approx(13 / 3)},
            {"field": "d", "entry": None, "value": 0.0, "train": 0.0, "validation": 0.0, "test": pytest.approx(3.0)},
        ],
    }  # fmt: skip


def test_a_nearly_constant_feature_adds_exactly_nothing_in_training(bench: Any) -> None:
    noise = [0.0, 0.0625, 0.125, 0.0625]
    made = table(bench, c=[1e6 + value for value in noise] + [1e6, 1e6 + 0.0625, 1e6, 1e6 + 2, 1e6 - 1])
    assert list(made.preprocess.constant) == [False, True]
    (own,) = constant_features(made)["features"]
    assert (own["train"], own["validation"]) == (0.0, 0.0)
    assert own["test"] == pytest.approx(5 / 3, rel=0.1)


def test_nothing_constant_nothing_said(bench: Any) -> None:
    assert constant_features(table(bench)) is None
    assert constant_features(bench.material("digits")) is None, "one scale for all entries: a constant pixel is divided by it"


def test_constant_entries_of_an_array_are_named_by_their_place(bench: Any) -> None:
    x = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    x[:, 1, 2] = 3.0
    x[8, 1, 2] = 5.0
    name = bench.arrays("constant-array", x=x, y=np.arange(9) % 2)
    found = constant_features(bench.material(name, split=SPLIT, preprocessing={"per": "feature"}))
    assert found["features"] == [
        {"field": "x", "entry": [1, 2], "value": 3.0, "train": 0.0, "validation": 0.0, "test": pytest.approx(4 / 3)}
    ]


def test_no_normalization_divides_nothing_by_one_instead(bench: Any) -> None:
    x = np.ones((4, 2), dtype=np.float32)
    assert not Preprocessing(normalize="none").fit(x, np.arange(4), kind="table").constant.any()
    assert Preprocessing().fit(x, np.arange(4), kind="table").constant.all()
    assert not Preprocessing().fit(x, np.arange(4), kind="table", plain=2).constant.any(), "one-hot columns stay as they are"


def test_a_spread_too_small_for_float32_is_none() -> None:
    x = np.array([[0.0], [1e-42], [0.0], [0.0]])
    normalize = Preprocessing().fit(x, np.arange(4), kind="table")
    assert normalize.constant.all()
    assert normalize(torch.from_numpy(x)).isfinite().all()


# --- units ----------------------------------------------------------------------------------------------------------


def test_saturated_is_the_outer_twentieth_at_either_end() -> None:
    z = torch.linspace(-6, 6, 1201)
    for name, (low, high) in BOUNDS.items():
        outputs = ACTIVATIONS[name](z)
        place = (outputs - low) / (high - low)
        assert torch.equal(saturated(name, outputs), (place < 0.05) | (place > 0.95))
        slope = torch.autograd.functional.jacobian(lambda z, name=name: ACTIVATIONS[name](z).sum(), z)
        assert float(slope[saturated(name, outputs)].max()) < 0.2 * float(slope.max())
    assert all(saturated(name, z) is None for name in ACTIVATIONS if name not in BOUNDS)


def test_a_dead_unit_gives_every_row_the_same() -> None:
    outputs = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1e-30, 1.0 + 2**-23], [0.0, 1.0, 0.0, 1.5]])
    assert dead(outputs.amin(0), outputs.amax(0)).tolist() == [True, True, False, False]


def test_shares_are_those_of_a_forward_pass_by_hand(bench: Any) -> None:
    made = bench.material(
        "diabetes", architecture={"type": "mlp", "hidden": [7, 5], "activation": "tanh"}, preprocessing={"normalize": "none"}
    )
    network, x = made.initial(0), made.rows(made.parts.train)[0]
    h, found = x.double().numpy(), shares(network, x)
    for name, layer in network.trunk.linears().items():
        h = np.tanh(h @ layer.linear.weight.detach().double().numpy().T + layer.linear.bias.detach().double().numpy())
        assert found[name]["saturated"] == pytest.approx((np.abs(h) > 0.9).mean(), abs=1e-3)
    assert found["hidden.0"]["dead"] > 0, "without normalization some units are at an end for every row"


def test_chunks_do_not_change_shares(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = {"type": "cnn", "channels": [3, 2], "hidden": [4], "activation": "tanh"}
    made = bench.material("digits", architecture=net, preprocessing={"normalize": "none"})
    network, x = made.initial(0), made.rows(made.parts.train[:50])[0]
    whole = shares(network, x)
    monkeypatch.setattr(report_activations, "CHUNK_ENTRIES", 7 * (network.entries + 1))
    assert shares(network, x) == {name: pytest.approx(values) for name, values in whole.items()}
    assert 0 < whole["conv.0"]["saturated"] < 1


def inquiry(bench: Any, **fields: Any) -> Inquiry:
    """A model after a few epochs, to be asked about its material."""
    common = {"dataset": "diabetes", "architecture": {"type": "mlp", "hidden": [16], "activation": "tanh"}, "epochs": 3, "seed": 1}
    fields = {**common, **fields}
    made = bench.material(fields.pop("dataset"), **fields)
    return Inquiry(bench.model(made, *(bench.train(made, member) for member in range(made.spec.ensemble.size))), made)


def test_without_normalization_units_begin_saturated(bench: Any) -> None:
    plain, standard = (activations(inquiry(bench, preprocessing={"normalize": how}))["layers"]["hidden.0"] for how in ("none", "standard"))
    assert plain["first"]["saturated"] > 0.8
    assert plain["best"]["saturated"] > 0.8
    assert standard["first"]["saturated"] < 0.2
    assert standard["first"] != standard["best"]


def test_without_normalization_rectified_units_begin_dead(bench: Any) -> None:
    net = {"type": "mlp", "hidden": [64, 64]}
    plain, standard = (
        activations(inquiry(bench, architecture=net, preprocessing={"normalize": how}))["layers"] for how in ("none", "standard")
    )
    assert plain["hidden.0"]["first"]["dead"] > 0.2
    assert standard["hidden.0"]["first"]["dead"] == 0.0
    assert plain["hidden.0"]["first"]["saturated"] is None


def test_shares_are_means_over_members_and_over_spread_rows(bench: Any) -> None:
    asked = inquiry(bench, dataset="digits", ensemble={"size": 2, "vary": {"dropout": [0.0, 0.5]}}, seed=3)
    found = activations(asked)
    assert found["rows"] == 1000
    train = asked.material.parts.train
    x = asked.material.rows(train[np.linspace(0, len(train) - 1, 1000).astype(int)])[0]
    each = [shares(network, x)["hidden.0"]["saturated"] for network in asked.model.networks]
    assert found["layers"]["hidden.0"]["best"]["saturated"] == pytest.approx(np.mean(each))
    first = [shares(asked.material.initial(member), x)["hidden.0"]["saturated"] for member in (0, 1)]
    assert found["layers"]["hidden.0"]["first"]["saturated"] == pytest.approx(np.mean(first))
    assert not math.isclose(*first)


def test_a_linear_model_has_no_units(bench: Any) -> None:
    assert activations(inquiry(bench, architecture={"type": "mlp", "hidden": []})) is None
