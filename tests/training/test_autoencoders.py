"""Autoencoders as they are trained, measured, asked and attacked."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from service.errors import Invalid, ModeUnavailable
from service.inference.alarms import measured as measured_alarms
from service.inference.asking import ask
from service.inference.attacking import AttackRequest, answer
from service.inference.measuring import Inquiry
from service.inference.model import rebuild
from service.inference.plots import all_plots
from service.inference.predicting import predict
from service.inference.report import build as build_report
from service.inference.settling import settle
from service.tricks.modes import Asking
from workers.training.checkpointing import pack

WHOLE = {"split": {"validation": 0, "test": 0}, "batch_size": "full"}
QUICK = {"optimizer": {"type": "adam", "learning_rate": 0.05}, "schedule": {"type": "cosine"}, "epochs": 500}


def asked_for(bench: Any, name: str, x: Any, **fields: Any) -> Any:
    """A material of unnamed columns."""
    return bench.material(bench.table(name, {f"f{i}": x[:, i].tolist() for i in range(x.shape[1])}), **fields)


def measured(bench: Any, made: Any, *members: Any) -> dict[str, float]:
    model = bench.model(made, *members)
    return dict(bench.measure(model, made, made.parts.train, Asking().axes(model)))


def discarded(x: Any, k: int, *, correlation: bool) -> float:
    """What principal components leave over of the variance, per entry."""
    values = np.linalg.eigvalsh(np.corrcoef(x.T) if correlation else np.cov(x.T, bias=True))
    return float(values[:-k].sum() / len(values))


def test_a_linear_autoencoder_is_pca(bench: Any) -> None:
    x = load_wine().data
    made = asked_for(bench, "wine", x, architecture={"type": "autoencoder", "hidden": [], "code": 2}, **WHOLE, **QUICK)
    assert made.encoding.shape == (13,), "no column was taken for a target"
    found = measured(bench, made, bench.train(made))
    assert 13 * discarded(x, 2, correlation=True) == pytest.approx(5.797176013598413)
    assert 13 * found["error_normalized"] == pytest.approx(5.797176013598413, rel=0.01)
    assert 13 * found["error_normalized"] > 5.797176013598413 * (1 - 1e-6)


def test_each_loss_has_an_optimum_of_its_own(bench: Any) -> None:
    """In the inputs' own unit it is the PCA of the covariance."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(200, 2)) @ stream.normal(size=(2, 5)) + 0.7 * stream.normal(size=(200, 5))
    x = x * [1.0, 3.0, 0.5, 2.0, 4.0] + [5.0, 0.0, -3.0, 1.0, 2.0]
    net = {"architecture": {"type": "autoencoder", "hidden": [], "code": 2}, **WHOLE, **QUICK}
    found = {
        loss: measured(bench, made, bench.train(made))
        for loss in ("mse", "mse_original")
        if (made := asked_for(bench, "units", x, targets=[{"name": "input", "loss": loss}], **net))
    }
    assert found["mse"]["error_normalized"] == pytest.approx(discarded(x, 2, correlation=True), rel=0.01)
    assert found["mse_original"]["error_original"] == pytest.approx(discarded(x, 2, correlation=False), rel=0.01)
    assert found["mse_original"]["error_original"] < 0.95 * found["mse"]["error_original"]
    assert found["mse"]["error_normalized"] < 0.95 * found["mse_original"]["error_normalized"]
    assert found["mse"]["loss"] == found["mse"]["error_normalized"]
    assert found["mse_original"]["loss"] == found["mse_original"]["error_original"]


def test_the_validation_error_is_that_of_the_answers(bench: Any) -> None:
    made = bench.material("digits", architecture={"type": "autoencoder", "hidden": [16], "code": 4, "dropout": 0.1}, epochs=3)
    member = bench.train(made)
    model = bench.model(made, member)
    found = bench.measure(model, made, made.parts.validation, Asking().axes(model))
    kept = member.run.only.patience.epoch - 1
    for name in ("loss", "error_normalized", "error_original"):
        assert member.series(f"validation.{name}")[kept] == pytest.approx(found[name], rel=1e-5)
    x = made.inputs[made.parts.validation].astype(np.float64)
    said = np.array(predict(model, torch.from_numpy(x).float(), Asking().axes(model))["input"]["prediction"])
    assert said.shape == (270, 8, 8)
    assert ((said - x) ** 2).mean() == pytest.approx(found["error_original"], rel=1e-6)
    shift, scale = float(made.preprocess.shift), float(made.preprocess.scale)
    assert (((said - x) / scale) ** 2).mean() == pytest.approx(found["error_normalized"], rel=1e-5)
    assert shift == pytest.approx(made.inputs[made.parts.train].mean())


def test_the_dataset_is_not_stored_twice(bench: Any) -> None:
    made = bench.material("digits", architecture={"type": "autoencoder", "code": 4})
    assert made.labels["input"].numel() == 0
    assert made.originals == {}
    assert made.encoding.array.name == "image", "the declared target is no input"


def test_other_heads_sit_on_the_code(bench: Any) -> None:
    targets = [{"name": "input"}, {"name": "label", "task": "classification"}]
    made = bench.material("digits", architecture={"type": "autoencoder", "hidden": [48], "code": 16}, targets=targets, epochs=12)
    member = bench.train(made)
    assert made.initial(0).heads[1].in_features == 16
    assert member.epochs[-1].values["validation.label.accuracy"] > 0.7
    assert member.epochs[-1].values["validation.input.error_normalized"] < 0.5


def test_noise_is_to_be_taken_away_again(bench: Any) -> None:
    """The label is the input before augmentation: with noise of many standard deviations the best answer is the mean."""
    x = np.random.default_rng(1).normal(size=(400, 4))
    net = {"architecture": {"type": "autoencoder", "hidden": [], "code": 4}, **WHOLE, "epochs": 300}
    net["optimizer"] = {"type": "adam", "learning_rate": 0.01}
    noisy = asked_for(bench, "noisy", x, augmentation=[{"type": "gaussian_noise", "std": 1.0}], **net)
    clean = asked_for(bench, "noisy", x, **net)
    found = measured(bench, noisy, bench.train(noisy))["error_normalized"]
    # Wiener: z' = z v / (v + s^2) is best, which without noise is off by (s^2 / (v + s^2))^2 v, a quarter.
    assert found == pytest.approx(0.25, abs=0.05)
    assert measured(bench, clean, bench.train(clean))["error_normalized"] < 0.01


# --- tables ---------------------------------------------------------------------------------------------------------

MIXED = {
    "size": [float(i % 7) for i in range(60)],
    "kind": [["red", "green", "blue"][i % 3] for i in range(60)],
    "fixed": [2.5] * 60,
    "gap": [None if i % 5 == 0 else float(i % 3) for i in range(60)],
    "on": [["true", "false"][i % 2] for i in range(60)],
}


@pytest.fixture(scope="module")
def mixed(bench: Any) -> Any:
    """A model of a table of numbers, categories, a constant and gaps, learnt well."""
    made = bench.material(
        bench.table("mixed", MIXED), architecture={"type": "autoencoder", "hidden": [32], "code": 6},
        **WHOLE, optimizer={"type": "adam", "learning_rate": 0.02}, epochs=400,
    )  # fmt: skip
    return made, bench.model(made, bench.train(made))


def test_a_row_of_a_table_comes_back_in_its_own_form(mixed: Any) -> None:
    made, model = mixed
    x = torch.from_numpy(made.inputs[:30])
    axes = Asking().axes(model)
    found = predict(model, x, axes, parts=("code", "error", "uncertainty"))["input"]
    names = [column.name for column in model.encoding.inputs]
    assert names == list(MIXED)
    for i, row in enumerate(found["prediction"]):
        assert row[0] == pytest.approx(MIXED["size"][i], abs=0.5)
        assert row[1] == MIXED["kind"][i]
        assert row[2] == 2.5, "exactly"
        assert row[4] == MIXED["on"][i]
    assert found["uncertainty"] == {"std": None, "aleatoric_std": None, "epistemic_std": None}
    torch.testing.assert_close(torch.tensor(found["code"]), model.networks[0].code(x))
    said = model.networks[0].distributions(x)["input"].mean.double()
    torch.testing.assert_close(torch.tensor(found["error"]).double(), (said - x.double()).square().mean(1), rtol=1e-6, atol=1e-12)


def test_a_deviating_constant_adds_its_square_to_a_rows_error(mixed: Any) -> None:
    made, model = mixed
    x = torch.from_numpy(made.inputs[:4]).clone()
    x[1, names_of(model).index("fixed")] += 3.0
    found = predict(model, x, Asking().axes(model), parts=("error",))["input"]
    said = torch.tensor([row[2] for row in found["prediction"]])
    assert torch.equal(said, torch.full((4,), 2.5))
    assert found["error"][1] * x.shape[1] > 9.0
    others = predict(model, torch.from_numpy(made.inputs[:4]), Asking().axes(model), parts=("error",))["input"]["error"]
    assert found["error"][0] == pytest.approx(others[0])


def names_of(model: Any) -> list[str]:
    return [column.name for column in model.encoding.numeric]


def test_members_masks_and_intervals_have_the_form_of_rows(bench: Any, mixed: Any) -> None:
    net = {"type": "autoencoder", "hidden": [8], "code": 3, "dropout": 0.2}
    made = bench.material(bench.table("mixed", MIXED), architecture=net, **WHOLE, epochs=2, ensemble={"size": 2})
    model = bench.model(made, bench.train(made, 0), bench.train(made, 1))
    x = torch.from_numpy(made.inputs[:3])
    found = predict(model, x, Asking().axes(model), parts=("members", "interval", "uncertainty", "error"))["input"]
    assert np.array(found["members"]["prediction"]).shape == (3, 2, 5)
    assert found["members"]["prediction"][0][0][1] is None, "a category has no number"
    assert found["members"]["std"] is None
    for row, (low, high, std) in enumerate(
        zip(found["interval"]["lower"], found["interval"]["upper"], found["uncertainty"]["std"], strict=True)
    ):
        assert low[0] < found["prediction"][row][0] < high[0]
        assert std[2] == 0.0, "members agree on a constant"
    with pytest.raises(ModeUnavailable, match="code of its own") as refused:
        predict(model, x, Asking().axes(model), parts=("error", "code"))
    assert [flaw.pointer for flaw in refused.value.flaws] == ["/return/1"]
    one = predict(model, x, Asking(members=1).axes(model), parts=("code",))["input"]["code"]
    torch.testing.assert_close(torch.tensor(one), model.networks[1].code(x))
    sampled = predict(model, x, Asking(mode="monte_carlo", samples=5).axes(model), parts=("uncertainty",))["input"]
    assert sampled["uncertainty"]["epistemic_std"][0][0] > 0
    images = bench.material("digits", architecture=net, epochs=1, ensemble={"size": 2})
    model = bench.model(images, bench.train(images, 0), bench.train(images, 1))
    found = predict(model, torch.tensor(images.inputs[:3]).float(), Asking().axes(model), parts=("members", "uncertainty"))["input"]
    assert np.array(found["members"]["prediction"]).shape == (3, 2, 8, 8)
    assert np.array(found["uncertainty"]["std"]).shape == np.array(found["prediction"]).shape == (3, 8, 8)


def test_masks_of_the_decoder_leave_heads_on_the_code_as_they_are(bench: Any) -> None:
    net = {"type": "autoencoder", "hidden": [12], "code": 4, "dropout": {"hidden": [0.0, 0.4]}}
    made = bench.material("digits", architecture=net, targets=[{"name": "input", "task": "reconstruction"}, {"name": "label"}], epochs=1)
    model, x = bench.model(made, bench.train(made)), torch.tensor(made.inputs[:3]).float()
    masked, plain = (ask(model, x, Asking(mode=mode, samples=4).axes(model)) for mode in ("monte_carlo", "weight_scaled"))
    torch.testing.assert_close(masked["label"].probabilities, plain["label"].probabilities)
    assert not torch.allclose(masked["input"].mean, plain["input"].mean)


def test_only_a_reconstruction_has_codes_and_errors(bench: Any) -> None:
    made = bench.material("digits", epochs=1)
    model = bench.model(made, bench.train(made))
    for part in ("code", "error"):
        with pytest.raises(Invalid) as refused:
            predict(model, torch.zeros(1, 8, 8), Asking().axes(model), parts=("logits", part))
        assert [(flaw.pointer, flaw.code) for flaw in refused.value.flaws] == [("/return/1", "unknown-choice")]


# --- what is stored, reported and attacked --------------------------------------------------------------------------


def test_a_stored_tied_model_answers_with_the_same_bits(bench: Any) -> None:
    made = bench.material("digits", architecture={"type": "autoencoder", "hidden": [12], "code": 4, "tied": True}, epochs=2)
    model = bench.model(made, bench.train(made))
    content, x = pack(model.tensors()), torch.tensor(made.inputs[:9]).float()
    again = rebuild(made.spec.dump(), model.describe(), content)
    axes = Asking().axes(model)
    assert predict(model, x, axes) == predict(again, x, axes)
    weights = sum(tensor.numel() for name, tensor in model.tensors().items() if name.endswith("weight"))
    assert weights == 64 * 12 + 12 * 4, "each tied weight once"


def test_the_report(bench: Any) -> None:
    made = bench.material(
        "digits", architecture={"type": "autoencoder", "hidden": [12], "code": 4, "tied": True, "dropout": 0.1},
        epochs=2, ensemble={"size": 2, "bootstrap": True},
    )  # fmt: skip
    members = [bench.train(made, i) for i in (0, 1)]
    inquiry = Inquiry(settle(Inquiry(bench.model(made, *members), made)), made)
    kept = {"best": 1.0, "best_epoch": 1, "best_step": 1, "stopped_epoch": 2, "stopped_step": 2, "stop_reason": "epochs"}
    found = build_report(inquiry, [{"member": i, **kept} for i in (0, 1)])
    test = found["splits"]["test"]
    assert found["reconstruction"] == {
        "target": "input", "split": "test", "error_normalized": test["error_normalized"], "error_original": test["error_original"],
        "anomaly": measured_alarms(inquiry),
    }  # fmt: skip
    assert found["reconstruction"]["anomaly"]["test"] < 0.15
    assert found["rows"] == {"train": 1257, "validation": 270, "test": 270}
    tied, member = 64 * 12 + 12 * 4, 64 * 12 + 12 + 12 * 4 + 4 + 12 + 64
    shared = {"saved_by_tying": tied, "unshared": member + tied, "saved_by_sharing": tied}
    assert found["parameters"] == {"member": member, **shared}
    assert set(found["sparsity"]) == {"encoder.0", "code"}, "a tied layer has no weights of its own"
    assert list(found["activations"]["layers"]) == ["encoder.0", "code", "decoder.0"]
    assert found["ensemble"]["measured_error"] == pytest.approx(test["error_original"], rel=1e-6)
    assert found["ensemble"]["predicted_error"] == pytest.approx(found["ensemble"]["measured_error"], rel=1e-6)
    assert found["ensemble"]["out_of_bag"] > 0
    assert found["calibration"] is None
    assert found["confusion_matrix"] is None


def test_an_attack_raises_the_error_of_the_reconstruction(bench: Any) -> None:
    made = bench.material("digits", architecture={"type": "autoencoder", "hidden": [24], "code": 6}, epochs=6)
    model = bench.model(made, bench.train(made))
    rows = made.inputs[made.parts.test[:8]].tolist()
    request = {"inputs": rows, "attack": {"type": "pgd", "epsilon": 2.0, "steps": 10}}
    found = answer(model, AttackRequest.model_validate(request), most_rows=100)
    said, clean = found["targets"]["input"], np.array(rows)
    before = ((np.array(said["clean"]["prediction"]) - clean) ** 2).mean((1, 2))
    after = ((np.array(said["adversarial"]["prediction"]) - clean) ** 2).mean((1, 2))
    assert (after > before).all()
    assert after.mean() > 1.15 * before.mean()
    assert found["success"] == [None] * 8
    assert max(found["perturbation"]["linf"]) <= 2.0 + 1e-5
    with pytest.raises(Invalid) as refused:
        answer(model, AttackRequest.model_validate({**request, "labels": [0] * 8}), most_rows=100)
    assert refused.value.flaws[0].pointer == "/labels"


# --- refusals -------------------------------------------------------------------------------------------------------

CODER = {"type": "autoencoder", "code": 4}
REFUSED = {
    "no reconstruction": ({"architecture": CODER, "targets": [{"name": "label"}]}, "/targets"),
    "no decoder": ({"targets": [{"name": "input", "task": "reconstruction"}]}, "/targets/0/task"),
    "two": ({"architecture": CODER, "targets": [{"name": "a"}, {"name": "b"}]}, "/targets/1/task"),
    "no code": ({"architecture": {"type": "autoencoder"}}, "/architecture/code"),
    "an unknown type": ({"architecture": {"type": "autoencode", "code": 4}}, "/architecture/type"),
    "no type": ({"architecture": {"code": 4}}, "/architecture/type"),
    "a list of rates": ({"architecture": {**CODER, "dropout": {"hidden": [0.1]}}}, "/architecture/dropout/hidden"),
    "a wide code": ({"architecture": {"type": "autoencoder", "code": 10**9}}, "/architecture"),
    "a foreign loss": ({"architecture": CODER, "targets": [{"name": "input", "loss": "cross_entropy"}]}, "/targets/0/loss"),
    "a foreign monitor": ({"architecture": CODER, "early_stopping": {"monitor": "accuracy"}}, "/early_stopping/monitor"),
    "a penalty on weights that are another layer's": (
        {"architecture": {**CODER, "tied": True}, "regularizers": [{"type": "l2", "alpha": 1e-4, "layers": ["decoder.*"]}]},
        "/regularizers/0/layers",
    ),
    "an input that is a label": (
        {"architecture": CODER, "targets": [{"name": "i"}, {"name": "label"}], "features": {"use": ["label"]}},
        "/features/use/0",
    ),
}  # fmt: skip


def test_biases_of_a_tied_layer_can_be_penalized(bench: Any) -> None:
    penalty = {"type": "l2", "alpha": 1e-4, "layers": ["decoder.*"], "parameters": "all"}
    made = bench.material("digits", architecture={**CODER, "tied": True}, regularizers=[penalty], epochs=1)
    assert bench.train(made).epochs[-1].values["penalty.l2"] > 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_at_its_place(bench: Any, name: str) -> None:
    fields, pointer = REFUSED[name]
    with pytest.raises(Invalid) as refused:
        bench.material("digits", **fields)
    assert pointer in [flaw.pointer for flaw in refused.value.flaws]


def test_monitors(bench: Any) -> None:
    for monitor in ("loss", "error_normalized", "error_original", "input.error_original"):
        made = bench.material("digits", architecture=CODER, early_stopping={"monitor": monitor}, epochs=1)
        assert np.isfinite(bench.train(made).run.only.patience.best)


def test_a_column_that_is_declared_a_target_is_an_input_where_it_is_asked_for(bench: Any) -> None:
    name = bench.table("declared", {"a": [1.0, 2, 3, 4], "b": [2.0, 1, 4, 3], "y": [0.5, 1, 2, 4]}, targets=["y"])
    plain = bench.material(name, architecture=CODER, **WHOLE)
    assert [column.name for column in plain.encoding.inputs] == ["a", "b"]
    used = bench.material(name, architecture=CODER, features={"use": ["a", "y"]}, **WHOLE)
    assert [column.name for column in used.encoding.inputs] == ["a", "y"]


def test_pictures_of_an_ensemble_over_a_constant_column(bench: Any) -> None:
    """Members agree on it to the last bit, so that its standard deviation is 0."""
    made = bench.material(
        bench.table("mixed", MIXED), architecture=CODER, epochs=2, split={"test": 0.3, "validation": 0.2}, ensemble={"size": 2}
    )
    inquiry = Inquiry(bench.model(made, bench.train(made, 0), bench.train(made, 1)), made)
    kept = {"best": 1.0, "best_epoch": 1, "best_step": 1, "stopped_epoch": 2, "stopped_step": 2, "stop_reason": "epochs"}
    summaries = [{"member": i, **kept} for i in (0, 1)]
    measured = build_report(inquiry, summaries)
    assert {"reliability.svg", "ensemble.svg"} <= set(all_plots(inquiry, measured, histories={}, summaries=summaries))


def test_a_layer_called_code_is_named_where_nothing_is_reconstructed(bench: Any) -> None:
    layers = [{"type": "flatten"}, {"type": "linear", "width": 4, "name": "code"}, {"type": "linear", "width": 8}]
    for architecture, words in (
        ({"type": "layers", "layers": layers}, "a network with a layer called code (/architecture/layers/1) reconstructs"),
        ({"type": "autoencoder", "code": 4}, "autoencoder reconstructs"),
    ):
        with pytest.raises(Invalid) as refused:
            bench.material("digits", architecture=architecture, targets=[{"name": "label"}])
        (flaw,) = refused.value.flaws
        assert (flaw.pointer, flaw.code) == ("/targets", "inconsistent-spec")
        assert flaw.message.startswith(words)
