"""Answers of every task: decisions, quantiles, noise, soft labels, in predictions, metrics, attacks and reports."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from torch import Tensor

from service.errors import Invalid
from service.inference import attacking, metrics
from service.inference.asking import ask
from service.inference.attacking import AttackRequest
from service.inference.deployed import Deployed
from service.inference.measuring import Inquiry, measure_answers
from service.inference.model import Model, from_files
from service.inference.predicting import predict
from service.inference.report_targets import targets
from service.inference.settling import likeliest_noise, settle
from service.tricks.modes import Asking
from service.tricks.multitask import SoftLabels
from service.tricks.targets import agrees
from workers.training.publishing import _contents, signature
from workers.training.run import build

NET = {"architecture": {"type": "mlp", "hidden": [8]}, "epochs": 30, "optimizer": {"type": "adam", "learning_rate": 0.02}}


def trained(bench: Any, dataset: str, *, size: int = 1, **fields: Any) -> tuple[Model, Inquiry]:
    """A model of so many members, settled on validation, and an inquiry of it."""
    made = bench.material(dataset, **{**NET, "ensemble": {"size": size}, **fields})
    gathered = bench.model(made, *(bench.train(made, member) for member in range(size)))
    model = settle(Inquiry(gathered, made))
    return model, Inquiry(model, made)


def stored(model: Model) -> Model:
    """The model, written and read back."""
    contents = _contents(model, {})
    return from_files(lambda name: contents[name])


def shown(model: Model, x: Tensor, **fields: Any) -> dict[str, Any]:
    """The first target's columns in a prediction of all parts."""
    parts = ("probabilities", "uncertainty", "members", "logits", "interval")
    return predict(model, x, Asking().axes(model), parts=parts, **fields)[model.spec.targets[0].name]


# --- decisions ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(bench: Any) -> str:
    """400 rows of which one in eight is of the second class."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(400, 2)).round(3)
    y = np.where(x[:, 0] + 0.8 * stream.normal(size=400) > 1.4, "yes", "no")
    return str(bench.table("uneven", {"a": x[:, 0], "b": x[:, 1], "y": y}))


@pytest.mark.parametrize("size", [1, 3])
def test_a_threshold_is_chosen_on_validation_kept_and_followed(bench: Any, uneven: str, size: int) -> None:
    plain, at_half = trained(bench, uneven, size=size, split={"validation": 0.4, "test": 0.3})
    model, inquiry = trained(bench, uneven, size=size, split={"validation": 0.4, "test": 0.3},
                             targets=[{"name": "y", "decision": {"threshold": "validation"}}])  # fmt: skip
    rows = inquiry.parts["validation"]
    p = inquiry.answers("validation", Asking().axes(model))["y"].probabilities.numpy()[:, 1]
    y = inquiry.material.labels["y"][rows].numpy()
    threshold = model.settled["y"].threshold
    assert threshold is not None
    best = max(balanced_accuracy_score(y, p >= t) for t in np.linspace(0, 1, 2001))
    assert balanced_accuracy_score(y, p >= threshold) >= best - 1e-12
    # The same weights: probabilities do not follow the decision, predictions do.
    x = inquiry.material.rows(inquiry.parts["test"])[0].float()
    before, after = shown(plain, x), shown(model, x)
    assert after["probabilities"] == before["probabilities"]
    assert after["prediction"] == ["yes" if row[1] >= threshold else "no" for row in after["probabilities"]]
    assert after["prediction"] != before["prediction"]
    again = stored(model)
    assert again.settled == model.settled
    assert shown(again, x)["prediction"] == after["prediction"]
    assert targets(inquiry)["y"]["decision"] == {"threshold": threshold}
    # Metrics of the decision follow it, those of probabilities do not.
    truth = inquiry.material.labels["y"][inquiry.parts["test"]].numpy()
    found, half = inquiry.measure("test", Asking().axes(model)), at_half.measure("test", Asking().axes(plain))
    said = np.array([name == "yes" for name in after["prediction"]])
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
    assert {name: found[name] for name in ("nll", "brier", "ece", "auroc", "loss")} == {
        name: half[name] for name in ("nll", "brier", "ece", "auroc", "loss")
    }


def test_costs_are_followed_by_predictions_agreement_and_attacks(bench: Any, uneven: str) -> None:
    model, inquiry = trained(bench, uneven, size=3, targets=[{"name": "y", "decision": {"costs": [[0, 1], [6, 0]]}}])
    x = inquiry.material.rows(inquiry.parts["test"])[0].float()
    answer = ask(model, x, Asking().axes(model), keep=True)["y"]
    # 6 p_yes > p_no, so from 1/7 on.
    assert torch.equal(answer.prediction, (answer.probabilities[:, 1] > 1 / 7).long())
    each = (answer.members[..., 1] > 1 / 7).long()
    torch.testing.assert_close(answer.agreement, (each == answer.prediction).double().mean(0))
    broken = Deployed(model, Asking().axes(model), "y", answer.prediction).broken(x)
    assert not broken.any()


def test_without_both_classes_on_validation_the_most_probable_class_is_said(bench: Any, uneven: str) -> None:
    made = bench.material(uneven)
    no = [int(row) for row in np.flatnonzero(made.labels["y"].numpy() == 0)[:20]]
    model, inquiry = trained(
        bench, uneven, split={"validation_rows": no}, epochs=1, targets=[{"name": "y", "decision": {"threshold": "validation"}}]
    )
    assert model.settled["y"].threshold is None
    assert targets(inquiry)["y"]["decision"] == {"threshold": "validation"}
    x = inquiry.material.rows(inquiry.parts["train"])[0].float()
    answer = ask(model, x, Asking().axes(model))["y"]
    assert torch.equal(answer.prediction, answer.probabilities.argmax(-1))


# --- quantiles and noise --------------------------------------------------------------------------------------------


def test_quantiles_are_answered_as_a_prediction_and_an_interval(bench: Any) -> None:
    model, inquiry = trained(
        bench, "diabetes", size=2, targets=[{"name": "target", "loss": "quantile", "quantiles": [0.05, 0.25, 0.5, 0.75, 0.95]}]
    )
    x, axes = inquiry.material.rows(inquiry.parts["test"])[0].float(), Asking().axes(model)
    each = [ask(model, x, Asking(members=i).axes(model))["target"].quantiles for i in range(2)]
    answer = ask(model, x, axes)["target"]
    torch.testing.assert_close(answer.quantiles, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-3)  # a stack rounds otherwise
    torch.testing.assert_close(answer.mean, answer.quantiles[..., 2])
    for level, low, high in ((0.9, 0, 4), (0.5, 1, 3), (0.6, 1, 3), (0.99, 0, 4)):
        interval = shown(model, x, level=level)["interval"]
        assert interval["method"] == "quantile"
        assert interval["level"] == pytest.approx([0.9, 0.5][low])
        assert interval["lower"] == answer.quantiles[:, 0, low].tolist()
        assert interval["upper"] == answer.quantiles[:, 0, high].tolist()
    truth = inquiry.material.originals["target"][inquiry.parts["train"]]
    said = inquiry.answers("train", axes)["target"].quantiles.numpy()[:, 0]
    shares = (truth <= said).mean(0)
    assert np.all(np.diff(shares) > 0)
    np.testing.assert_allclose(shares, [0.05, 0.25, 0.5, 0.75, 0.95], atol=0.12)
    assert "nll" not in inquiry.measure("test", axes)
    alone = trained(bench, "diabetes", epochs=1, targets=[{"name": "target", "loss": "quantile", "quantiles": [0.5]}])[0]
    assert shown(alone, x)["interval"] == {"lower": None, "upper": None, "level": 0.9, "method": "quantile"}


@pytest.mark.parametrize("size", [1, 3])
def test_noise_from_validation_makes_its_rows_most_likely(bench: Any, size: int) -> None:
    model, inquiry = trained(bench, "diabetes", size=size, targets=[{"name": "target", "noise_std": "validation"}], epochs=8)
    (noise,) = model.settled["target"].noise_std or ()
    axes, rows = Asking().axes(model), inquiry.parts["validation"]
    truth = inquiry.material.originals["target"][rows]
    answer = inquiry.answers("validation", axes)["target"]
    error = answer.mean.numpy() - truth
    spread = answer.epistemic.numpy() if size > 1 else 0.0

    def surprise(s: float) -> float:
        return float(-stats.norm.logpdf(error, scale=np.sqrt(s**2 + spread)).mean())

    assert all(surprise(noise) <= surprise(noise * factor) + 1e-12 for factor in (0.9, 0.999, 1.001, 1.1))
    if size == 1:
        assert noise == pytest.approx(math.sqrt((error**2).mean()))
    found = inquiry.measure("validation", axes)
    assert found["nll"] == pytest.approx(surprise(noise), rel=1e-6)
    x = inquiry.material.rows(rows)[0].float()
    uncertainty = shown(stored(model), x)["uncertainty"]
    assert uncertainty["aleatoric_std"] == pytest.approx([noise] * len(rows), rel=1e-6)
    assert shown(model, x)["interval"]["lower"][0] is not None
    assert targets(inquiry)["target"]["noise_std"] == pytest.approx([noise])


def test_noise_that_is_given_is_the_aleatoric_spread(bench: Any) -> None:
    model, inquiry = trained(bench, "diabetes", size=2, targets=[{"name": "target", "noise_std": 50.0}], epochs=3)
    x = inquiry.material.rows(inquiry.parts["test"])[0].float()
    found = shown(model, x)
    assert found["uncertainty"]["aleatoric_std"] == pytest.approx([50.0] * len(x))
    np.testing.assert_allclose(np.square(found["uncertainty"]["std"]), np.square(found["uncertainty"]["epistemic_std"]) + 2500, rtol=1e-6)
    assert np.array(found["members"]["std"]) == pytest.approx(50.0)
    nearest_to_all = shown(model, x, level=float(np.nextafter(1, 0)))["interval"]
    assert np.isfinite(nearest_to_all["lower"] + nearest_to_all["upper"]).all()
    plain, told = inquiry.measure("test", Asking().axes(model)), trained(bench, "diabetes", size=2, epochs=3)[1]
    assert plain["loss"] == told.measure("test", Asking().axes(told.model))["loss"]
    assert "nll_mixture" in plain
    assert "nll" not in told.measure("test", Asking().axes(told.model))


def test_the_likeliest_noise_beside_a_spread_that_explains_all_is_nearly_none() -> None:
    spread = np.full(500, 4.0)
    squares = np.random.default_rng(0).normal(scale=2.0, size=500) ** 2 * 0.9
    assert likeliest_noise(squares, spread) < 0.1
    assert likeliest_noise(squares + 5, np.zeros(500)) == pytest.approx(math.sqrt((squares + 5).mean()))
    truth = np.random.default_rng(1).normal(scale=3.0, size=20_000) ** 2
    assert likeliest_noise(truth, np.full(20_000, 4.0)) == pytest.approx(math.sqrt(5), rel=0.05)


# --- soft labels ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def soft(bench: Any) -> tuple[Model, Inquiry]:
    bench.several()
    return trained(bench, "several", size=2, targets=[{"name": "policy"}])


def truth_of(inquiry: Inquiry, part: str = "test") -> tuple[Tensor, np.ndarray]:
    """Rows with a label, and their distributions."""
    x, labels = inquiry.material.rows(inquiry.parts[part])
    known = ~labels["policy"].isnan().any(-1)
    return x[known].float(), labels["policy"][known].double().numpy()


def test_rows_that_sum_to_one_are_a_distribution_from_upload_to_answer(soft: tuple[Model, Inquiry]) -> None:
    model, inquiry = soft
    assert model.spec.targets[0].task == "distribution"
    assert signature(model)["outputs"] == [{"name": "policy", "task": "distribution", "classes": ("0", "1", "2", "3"), "outputs": 4}]
    x, truth = truth_of(inquiry)
    answer = shown(stored(model), x)
    p = np.array(answer["probabilities"])
    assert answer["prediction"] == [str(place) for place in p.argmax(1)]
    np.testing.assert_allclose(p.sum(1), 1)
    found = inquiry.measure("test", Asking().axes(model))
    cross = -(truth * np.log(p)).sum(1).mean()
    assert found["loss"] == found["nll"] == pytest.approx(cross, rel=1e-6)
    assert found["kl"] == pytest.approx(np.mean([stats.entropy(t, q) for t, q in zip(truth, p, strict=True)]), rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth.argmax(1), p.argmax(1)))
    assert found["error"] == pytest.approx(1 - found["accuracy"])
    assert found["brier"] == pytest.approx(((p - truth) ** 2).sum(1).mean(), rel=1e-6)
    assert found["kl"] < 0.2


def test_a_distribution_that_has_one_class_is_a_class(soft: tuple[Model, Inquiry]) -> None:
    """Its metrics are then those of classes."""
    model, inquiry = soft
    x, truth = truth_of(inquiry, "train")
    hard = np.eye(4)[truth.argmax(1)]
    answers = ask(model, x, Asking().axes(model))
    material = inquiry.material
    made = type(material)(**{**vars(material), "labels": {"policy": torch.from_numpy(hard)}, "fitted": ()})
    found = measure_answers(answers, model, made, np.arange(len(x)))
    p = answers["policy"].probabilities.numpy()
    assert found["nll"] == found["kl"] == pytest.approx(log_loss(truth.argmax(1), p, labels=[0, 1, 2, 3]), rel=1e-6)


def test_any_of_equally_probable_classes_is_right() -> None:
    labels = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    assert agrees(torch.tensor([0, 2]), labels).tolist() == agrees(torch.tensor([1, 2]), labels).tolist() == [True, True]
    assert agrees(torch.tensor([2, 0]), labels).tolist() == [False, False]
    p = np.array([[0.1, 0.8, 0.1], [0.7, 0.1, 0.2]])
    assert metrics.distribution(p, labels.double().numpy())["accuracy"] == 0.5
    raw = torch.from_numpy(p).log()
    assert SoftLabels(name="y").scores(raw, labels, torch.ones(1))["hits"].tolist() == [1.0, 0.0]
    assert agrees(torch.tensor([1, 0]), torch.tensor([1, 2])).tolist() == [True, False]


@pytest.mark.parametrize("labels", ["rows", "names"])
def test_attacks_raise_the_soft_cross_entropy(soft: tuple[Model, Inquiry], labels: str) -> None:
    model, inquiry = soft
    x, truth = truth_of(inquiry)
    sent = truth.tolist() if labels == "rows" else [str(place) for place in truth.argmax(1)]
    request = AttackRequest.model_validate(
        {"inputs": x.tolist(), "labels": sent, "attack": {"type": "pgd", "epsilon": 1.0, "steps": 10, "bounds": None}}
    )
    answer = attacking.answer(model, request, most_rows=1000)
    told = answer["targets"]["policy"]
    right = [str(place) for place in truth.argmax(1)]
    assert [found is None for found in answer["success"]] == [
        said != wanted for said, wanted in zip(told["clean"]["prediction"], right, strict=True)
    ]
    assert sum(found is True for found in answer["success"]) > 3
    wanted = torch.tensor(truth) if labels == "rows" else torch.tensor(np.eye(4)[truth.argmax(1)])
    loss_of = Deployed(model, request.axes(model), "policy", wanted)
    attacked = torch.tensor([found is not None for found in answer["success"]])
    with torch.no_grad():
        before, after = loss_of(x), loss_of(torch.tensor(answer["inputs"]))
    assert (after[attacked] >= before[attacked] - 1e-6).all()
    p = torch.tensor(told["clean"]["probabilities"], dtype=torch.float64)
    torch.testing.assert_close(before.double(), -(wanted * p.log()).sum(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "pointer", "code"),
    [
        ([[0.5, 0.5, 0.0, 0.1]], "/labels/0", "value-out-of-range"),
        ([[1.5, -0.5, 0.0, 0.0]], "/labels/0", "value-out-of-range"),
        ([[0.5, 0.5]], "/labels/0", "shape-mismatch"),
        ([[0.5, 0.5, None, 0.0]], "/labels/0/2", "wrong-type"),
        (["7"], "/labels/0", "unknown-choice"),
        ([{}], "/labels/0", "unknown-choice"),
    ],
)
def test_labels_that_are_no_distribution_are_refused(soft: tuple[Model, Inquiry], labels: list[Any], pointer: str, code: str) -> None:
    model, inquiry = soft
    x, _ = truth_of(inquiry)
    request = AttackRequest.model_validate({"inputs": x[:1].tolist(), "labels": labels, "attack": {"type": "fgsm", "epsilon": 1.0}})
    with pytest.raises(Invalid) as refused:
        attacking.answer(model, request, most_rows=10)
    assert (refused.value.flaws[0].pointer, refused.value.flaws[0].code) == (pointer, code)


# --- several targets ------------------------------------------------------------------------------------------------


def test_the_report_has_learned_weights_of_every_member(bench: Any) -> None:
    bench.several()
    asked = [
        {"name": "policy", "weight": "learned"},
        {"name": "value", "output": "tanh", "weight": "learned"},
        {"name": "kind", "weight": 0.5},
    ]
    model, inquiry = trained(bench, "several", size=2, targets=asked)
    found = targets(inquiry)
    each = [network.log_variances["value"].item() for network in model.networks]
    assert found["value"]["log_variance"] == pytest.approx(each)
    assert found["value"]["members"] == pytest.approx([math.exp(-s) / 2 for s in each])
    assert found["value"]["weight"] == pytest.approx(math.exp(-sum(each) / 2) / 2)
    assert found["policy"]["members"] == pytest.approx([math.exp(-network.log_variances["policy"].item()) for network in model.networks])
    assert (found["kind"]["weight"], found["kind"]["members"]) == (0.5, None)
    assert {name: own["decision"] for name, own in found.items()} == {"policy": "argmax", "value": None, "kind": "argmax"}
    measured = inquiry.measure("test", Asking().axes(model))
    s = model.log_variances
    expected = (
        measured["policy.loss"] * math.exp(-s["policy"]) + s["policy"] / 2
        + measured["value.loss"] * math.exp(-s["value"]) / 2 + s["value"] / 2
        + 0.5 * measured["kind.loss"]
    )  # fmt: skip
    assert measured["loss"] == pytest.approx(expected)
    again = stored(model)
    assert again.log_variances == model.log_variances
    json.dumps(found, allow_nan=False)


def test_a_learned_weight_is_one_more_parameter_of_a_member(bench: Any) -> None:
    bench.several()
    fixed, learned = (bench.material("several", targets=[{"name": "value", "weight": weight}]) for weight in (1.0, "learned"))
    count = [sum(parameter.numel() for parameter in build(made, None).parameters()) for made in (fixed, learned)]
    assert count[1] == count[0] + 1
