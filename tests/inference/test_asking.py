"""Dropout at prediction against the enumeration of every mask."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import ModeUnavailable
from service.inference import asking
from service.inference.asking import passes, quiet
from service.tricks.modes import EXACT_UNITS, Asking, Combine, Mode

Floats = NDArray[np.float64]
INPUT = {"dropout": {"input": 0.5}}
LAST = {"hidden": [6, 5], "dropout": {"hidden": [0.0, 0.2]}}
BOTH = {"hidden": [4], "activation": "tanh", "dropout": {"input": 0.25, "hidden": 0.5}}
UNITS = {"hidden": [4], "activation": "tanh", "dropout": {"input": 0.25, "hidden": [[0.1, 0.0, 0.7, 0.4]]}}
LAST_UNITS = {"hidden": [6, 5], "dropout": {"hidden": [0.0, [0.2, 0.9, 0.0, 0.5, 0.35]]}}
NUMBER = {"task": "regression", "name": "size"}


def softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.75])
def test_weight_scaling_is_the_geometric_mean_of_a_softmax_on_dropped_inputs(bench: Any, rate: float) -> None:
    x = bench.inputs()
    for precise, tolerance in ((False, 1e-6), (True, 1e-12)):
        model = bench.model(dropout={"input": rate})
        model = bench.double(model) if precise else model
        scaled, geometric, arithmetic = (
            bench.said(model, x, mode=mode, combine=combine).probabilities
            for mode, combine in (("weight_scaled", "arithmetic"), ("exact", "geometric"), ("exact", "arithmetic"))
        )
        torch.testing.assert_close(scaled, geometric, rtol=0, atol=tolerance)
        assert float((scaled - arithmetic).abs().max()) > 0.02


@pytest.mark.parametrize("fields", [LAST, LAST_UNITS], ids=["one rate", "a rate per unit"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_weight_scaling_is_exact_where_the_last_hidden_layer_alone_is_dropped(bench: Any, activation: str, fields: dict[str, Any]) -> None:
    model = bench.double(bench.model(**fields, activation=activation))
    x = bench.inputs()
    torch.testing.assert_close(
        bench.said(model, x, mode="weight_scaled").probabilities,
        bench.said(model, x, mode="exact", combine="geometric").probabilities,
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("fields", [BOTH, UNITS], ids=["one rate", "a rate per unit"])
def test_weight_scaling_is_not_exact_through_a_nonlinear_layer(bench: Any, fields: dict[str, Any]) -> None:
    model = bench.double(bench.model(**fields))
    x = bench.inputs()
    scaled, geometric = (
        bench.said(model, x, mode="weight_scaled").probabilities,
        bench.said(model, x, mode="exact", combine="geometric").probabilities,
    )
    assert float((scaled - geometric).abs().max()) > 1e-3


@pytest.mark.parametrize("fields", [INPUT, LAST, BOTH, UNITS, LAST_UNITS], ids=["input", "last", "both", "units", "last units"])
def test_exact_enumerates_every_mask(bench: Any, fields: dict[str, Any]) -> None:
    model = bench.double(bench.model(**fields))
    x = bench.inputs(5)
    logits, shares = bench.enumerated(model, x)
    p = softmax(logits)
    w = shares[:, None, None]
    average = (w * p).sum(0)
    expected = {
        "arithmetic": average,
        "geometric": softmax((w * np.log(p)).sum(0)),
        "vote": (w * np.eye(3)[p.argmax(-1)]).sum(0),
    }
    assert set(expected) == set(get_args(Combine))
    for combine, probabilities in expected.items():
        found = bench.said(model, x, mode="exact", combine=combine)
        np.testing.assert_allclose(found.probabilities.numpy(), probabilities, rtol=0, atol=1e-7)
        np.testing.assert_allclose(found.total.numpy(), -(average * np.log(average)).sum(-1), rtol=0, atol=1e-7)
        np.testing.assert_allclose(found.aleatoric.numpy(), -(w * p * np.log(p)).sum((0, -1)), rtol=0, atol=1e-7)
        chosen = probabilities.argmax(-1)
        assert found.prediction.tolist() == chosen.tolist()
        np.testing.assert_allclose(found.agreement.numpy(), expected["vote"][np.arange(5), chosen], rtol=0, atol=1e-7)


def test_exact_numbers(bench: Any) -> None:
    model = bench.double(bench.model(NUMBER, **BOTH))
    x = bench.inputs(5)
    outputs, shares = bench.enumerated(model, x)
    means, w = outputs * 2 + 5, shares[:, None, None]
    center = (w * means).sum(0)
    found = bench.said(model, x, mode="exact")
    np.testing.assert_allclose(found.mean.numpy(), center, rtol=1e-7)
    np.testing.assert_allclose(found.epistemic.numpy(), (w * (means - center) ** 2).sum(0), rtol=1e-6)


@pytest.mark.parametrize(("fields", "samples"), [(INPUT, 4_000), (BOTH, 20_000), (UNITS, 20_000)], ids=["input", "both", "units"])
def test_monte_carlo_comes_within_four_standard_errors_of_the_enumeration(bench: Any, fields: dict[str, Any], samples: int) -> None:
    model, x = bench.double(bench.model(**fields)), bench.inputs(4)
    logits, shares = bench.enumerated(model, x)
    w, p = shares[:, None, None], softmax(logits)
    mean = (w * p).sum(0)
    error = np.sqrt((w * (p - mean) ** 2).sum(0) / samples)
    found = bench.said(model, x, mode="monte_carlo", samples=samples).probabilities.numpy()
    assert (np.abs(found - mean) <= 4 * error).all()
    assert (np.abs(found - mean) > 0.01 * error).any(), "samples, not the enumeration itself"


def test_the_error_of_monte_carlo_falls_like_one_over_the_root(bench: Any) -> None:
    model, x = bench.double(bench.model(**BOTH)), bench.inputs(4)
    logits, shares = bench.enumerated(model, x)
    mean = (shares[:, None, None] * softmax(logits)).sum(0)

    def spread(samples: int) -> float:
        seeds = [bench.said(model, x, mode="monte_carlo", samples=samples, seed=seed).probabilities.numpy() - mean for seed in range(40)]
        return float(np.sqrt(np.mean(np.square(seeds))))

    assert spread(8) / spread(128) == pytest.approx(4.0, rel=0.25)


def test_monte_carlo_numbers(bench: Any) -> None:
    model, x, samples = bench.double(bench.model(NUMBER, **BOTH)), bench.inputs(4), 4_000
    outputs, shares = bench.enumerated(model, x)
    means, w = outputs * 2 + 5, shares[:, None, None]
    center = (w * means).sum(0)
    squares = (means - center) ** 2
    variance = (w * squares).sum(0)
    found = bench.said(model, x, mode="monte_carlo", samples=samples)
    assert (np.abs(found.mean.numpy() - center) <= 4 * np.sqrt(variance / samples)).all()
    noise = np.sqrt((w * (squares - variance) ** 2).sum(0) / samples)
    assert (np.abs(found.epistemic.numpy() - variance) <= 4 * noise + 4 * variance / samples).all()


def test_two_passes_differ_in_their_seeds_alone(bench: Any) -> None:
    """Monte Carlo dropout that is silently off answers the same for every seed."""
    model, x = bench.model(**BOTH), bench.inputs()
    for fields in ({"mode": "monte_carlo", "samples": 3}, {"dropout": "sampled"}):
        first, again, other = (bench.said(model, x, **fields, seed=seed).probabilities for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert float((first - other).abs().max()) > 1e-3
        assert float((first - bench.said(model, x, mode="weight_scaled").probabilities).abs().max()) > 1e-3


def test_one_sample_is_one_of_the_masks(bench: Any) -> None:
    model, x = bench.double(bench.model(**BOTH)), bench.inputs(30)
    every = softmax(bench.enumerated(model, x)[0])
    found = bench.said(model, x, dropout="sampled", seed=4)
    distances = np.abs(every - found.probabilities.numpy()).max(2)
    assert float(distances.min(0).max()) < 1e-6
    assert len(set(distances.argmin(0).tolist())) > 20, "each row has a mask of its own"
    assert torch.equal(found.probabilities, bench.said(model, x, mode="monte_carlo", samples=1, seed=4).probabilities)


def test_equal_rows_have_equal_answers(bench: Any) -> None:
    """Also where one has -0 for 0."""
    model, row = bench.double(bench.model(**BOTH)), bench.inputs(1)
    row[0, 1] = 0.0
    rows = row.repeat(9, 1)
    rows[4, 1] = -0.0
    many = bench.said(model, rows, mode="monte_carlo", samples=2).probabilities
    torch.testing.assert_close(many, many[:1].expand_as(many), rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=25)
@given(
    order=st.permutations(range(9)), entries=st.sampled_from([1, 50, 700, 4_000_000]), dropout=st.sampled_from(["monte_carlo", "sampled"])
)
def test_neighbours_places_and_chunks_do_not_change_a_rows_masks(bench: Any, order: list[int], entries: int, dropout: str) -> None:
    model, x = bench.double(bench.model(**BOTH, size=2)), bench.inputs(9)
    fields = {"members": "all", "dropout": dropout, "samples": 6, "seed": 3}
    whole = bench.said(model, x, **fields, keep=True).members
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "CHUNK_ENTRIES", entries)
        found = bench.said(model, x[order], **fields, keep=True).members
    torch.testing.assert_close(found, whole[:, order], rtol=0, atol=1e-12)


def test_the_errors_of_rows_are_independent(bench: Any) -> None:
    """With one mask for all rows they are not: an average over rows would have the noise of S masks, not of S times N."""
    model, x, seeds = bench.model(**BOTH), bench.inputs(2), 400
    first = torch.stack([bench.said(model, x, mode="monte_carlo", samples=4, seed=seed).probabilities[:, 0] for seed in range(seeds)])
    assert abs(float(torch.corrcoef(first.T)[0, 1])) < 4 / seeds**0.5
    axes = Asking(mode="monte_carlo", samples=4).axes(model)
    shared = [said["kind"].logits.double().softmax(-1).mean(0)[:, 0] for seed in range(seeds)
              for said, _ in passes(model, x, axes._replace(seed=seed), fresh=False, beat=quiet)]  # fmt: skip
    assert abs(float(torch.corrcoef(torch.stack(shared).T)[0, 1])) > 0.3


def test_exact_is_computed_in_double_precision(bench: Any) -> None:
    """Also where the network is not."""
    model, x = bench.model(**BOTH), bench.inputs(5)
    logits, shares = bench.enumerated(model, x)
    expected = (shares[:, None, None] * softmax(logits)).sum(0)
    found = bench.said(model, x, mode="exact").probabilities.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert model.networks[0].preprocess.shift.dtype == torch.float32
    number = bench.model(NUMBER, **BOTH)
    outputs, shares = bench.enumerated(number, x)
    np.testing.assert_allclose(
        bench.said(number, x, mode="exact").mean.numpy(), (shares[:, None, None] * outputs).sum(0) * 2 + 5, rtol=1e-12
    )


def test_more_units_than_can_be_enumerated_are_refused(bench: Any) -> None:
    most = bench.model(encoding=bench.encoding(EXACT_UNITS), dropout={"input": 0.5})
    x = bench.inputs(2, EXACT_UNITS)
    torch.testing.assert_close(
        bench.said(most, x, mode="exact", combine="geometric").probabilities,
        bench.said(most, x, mode="weight_scaled").probabilities,
        rtol=0,
        atol=1e-5,
    )
    beyond = bench.model(encoding=bench.encoding(EXACT_UNITS + 1), dropout={"input": 0.5})
    with pytest.raises(ModeUnavailable, match="at most 16"):
        bench.said(beyond, bench.inputs(2, EXACT_UNITS + 1), mode="exact")


def test_asking_changes_nothing_in_the_model(bench: Any) -> None:
    model, x = bench.model(**BOTH, batch_norm=True, size=2), bench.inputs()
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in model.networks]
    rows = x.clone()
    for mode in get_args(Mode):
        bench.said(model, x, mode=mode, samples=3)
    assert torch.equal(x, rows)
    for network, state in zip(model.networks, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        assert not any(module.training for module in network.modules()), "batch norm stays in evaluation under Monte Carlo"
        assert all(p.grad is None for p in network.parameters())
