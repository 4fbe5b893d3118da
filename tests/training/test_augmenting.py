"""Augmentation in training: on training rows alone, the same for a row wherever it comes, and shown as it was seen."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.errors import Invalid
from service.inference import report_invariance
from service.inference.asking import ask
from service.inference.augmenting import seen
from service.inference.measuring import Inquiry, center
from service.inference.plots.augmentation import augmentation
from service.tricks.augmenting import Augmented
from service.tricks.modes import Asking
from workers.training.loop import train
from workers.training.objective import DataLoss
from workers.training.run import Run, start
from workers.training.task import Task

CPU = torch.device("cpu")
NOISE = {"type": "gaussian_noise", "std": 3.0}
MOVED = [{"type": "rotate", "degrees": 15.0}, {"type": "translate", "pixels": 1, "probability": 0.5}, {"type": "cutout", "size": 2}]
MIXED = [{"type": "rotate", "degrees": 10.0}, {"type": "mixup", "alpha": 1.0}, {"type": "cutmix", "probability": 0.5}]
Heard = list[tuple[int, list[int], Tensor, dict[str, Tensor]]]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Every batch that was augmented: epoch, row numbers, and what came of it."""
    found: Heard = []
    plain = Augmented.__call__

    def hear(self: Augmented, x: Tensor, labels: dict[str, Tensor], rows: Tensor, *, epoch: int) -> Any:
        given = plain(self, x, labels, rows, epoch=epoch)
        found.append((epoch, rows.tolist(), *given))
        return given

    monkeypatch.setattr(Augmented, "__call__", hear)
    return found


def trained(material: Any, *members: int) -> Run:
    run = start(material, members, CPU, stacked=len(members) > 1)
    for _ in train(run, Task(material, run, CPU), tick_s=1e9):
        pass
    return run


@pytest.mark.parametrize("dataset", ["digits", "diabetes"])
def test_only_training_rows_are_changed(bench: Any, heard: Heard, dataset: str) -> None:
    """Validation and test rows never reach a transform, and validation is measured on rows as they are stored."""
    material = bench.material(dataset, augmentation=[NOISE, {"type": "mixup"}], epochs=2)
    before = material.inputs.copy()
    run = trained(material, 0)
    rows = [row for _, batch, _, _ in heard for row in batch]
    assert set(rows) == set(material.parts.train.tolist())
    assert not set(rows) & {*material.parts.validation.tolist(), *material.parts.test.tolist()}
    assert np.array_equal(material.inputs, before)
    x, labels = material.rows(material.parts.validation)
    loss = DataLoss(material.spec.targets, material.labels)(run.network.eval()(x.float()), labels).detach()
    assert run.only.history["validation.loss"][-1] == pytest.approx(float(loss), rel=1e-5)


def test_a_row_is_seen_alike_in_a_stack_and_alone_and_in_other_batches(bench: Any, heard: Heard) -> None:
    """By (member, epoch, row); batch sizes and orders differ."""
    found: list[dict[tuple[int, int, int], bytes]] = []
    for members, size in (((0, 1), 100), ((0,), 7), ((1,), 333)):
        heard.clear()
        trained(bench.material("digits", augmentation=MOVED, epochs=2, batch_size=size, ensemble={"size": 2}), *members)
        own: dict[tuple[int, int, int], bytes] = {}
        for epoch, rows, x, _ in heard:
            for place, member in enumerate(members):
                numbers, images = (rows[place], x[place]) if len(members) > 1 else (rows, x)
                own |= {(member, epoch, row): image.numpy().tobytes() for row, image in zip(numbers, images, strict=True)}
        found.append(own)
    together, *alone = found
    assert len(together) == 2 * 2 * 1257
    assert together == alone[0] | alone[1]


@pytest.mark.parametrize("fields", [
    {"augmentation": MOVED}, {"augmentation": MIXED}, {"augmentation": MIXED, "ensemble": {"size": 2, "bootstrap": True}},
    {"augmentation": MIXED, "batch_size": "full"},
], ids=["moved", "mixed", "bagged", "full batch"])  # fmt: skip
def test_what_is_shown_is_what_training_saw(bench: Any, heard: Heard, fields: dict[str, Any]) -> None:
    material = bench.material("digits", epochs=3, seed=5, **fields)
    member = material.spec.ensemble.size - 1
    trained(material, member)
    told = list(heard)
    shown = seen(material, member, count=8, epochs=3)
    assert torch.equal(shown.stored, torch.from_numpy(material.inputs[shown.rows]).float())
    assert shown.rows.tolist() == told[0][1][: len(shown.rows)]
    for epoch, (x, labels) in enumerate(shown.epochs):
        for place, row in enumerate(shown.rows.tolist()):
            then = [(given[rows.index(row)], of["label"][rows.index(row)]) for at, rows, given, of in told if at == epoch and row in rows]
            assert any(torch.equal(image, x[place]) and torch.equal(label, labels["label"][place]) for image, label in then)


@pytest.mark.parametrize("dataset", ["digits", "diabetes"])
def test_the_picture_is_drawn_and_small(bench: Any, dataset: str) -> None:
    material = bench.material(dataset, augmentation=[*(MOVED if dataset == "digits" else []), NOISE, {"type": "mixup"}])
    drawn = augmentation(material, 0)
    assert b"<image" in drawn
    assert drawn == augmentation(material, 0)
    assert len(drawn) < 200_000


def test_the_gap_is_that_of_answers_by_hand(bench: Any) -> None:
    transforms = [*MOVED, {"type": "mixup", "alpha": 1.0}, NOISE, {**NOISE, "std": 0.0}]
    material = bench.material("digits", augmentation=transforms, epochs=2)
    model = bench.model(material, bench.train(material))
    found = report_invariance.invariance(Inquiry(model, material))
    assert [*found] == ["rotate", "translate", "cutout", "mixup", "gaussian_noise.4", "gaussian_noise.5"]
    axes, rows = Asking(members="best").axes(model), material.parts.test
    x = torch.from_numpy(material.inputs[rows]).float()
    before = center(ask(model, x, axes)["label"])
    for place, (name, transform) in enumerate(zip(found, material.spec.augmentation, strict=True)):
        moved, wanted = Augmented((transform,), (0,), classes={})(x, {"f": before}, torch.from_numpy(rows), epoch=0)
        gap = float((center(ask(model, moved, axes)["label"]) - wanted["f"]).abs().mean())
        assert found[name] == pytest.approx(gap, rel=1e-6, abs=1e-12), place
    assert found["gaussian_noise.5"] == 0
    assert 0 < found["rotate"] < found["gaussian_noise.4"]


def test_noise_on_test_rows_costs_accuracy(bench: Any) -> None:
    material = bench.material("digits", augmentation=[NOISE], epochs=30)
    model = bench.model(material, bench.train(material))
    inquiry = Inquiry(model, material)
    found = report_invariance.noise(inquiry)
    assert found is not None
    assert (found["metric"], found["unit"]) == ("accuracy", "range")
    assert [point["sigma"] for point in found["by_sigma"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    values = [point["value"] for point in found["by_sigma"]]
    assert values[0] == pytest.approx(inquiry.measure("test", Asking().axes(model))["accuracy"], abs=0.03)
    assert values[0] > values[3] + 0.02
    assert values[3] > values[7] + 0.02
    plain = bench.material("digits", epochs=1)
    assert report_invariance.noise(Inquiry(bench.model(plain, bench.train(plain)), plain)) is None


def test_noise_on_a_linear_model_has_a_closed_form(bench: Any) -> None:
    """The mean square grows by sigma^2 times the sum of squares of slopes times ranges."""
    material = bench.material("diabetes", augmentation=[NOISE], epochs=5)
    model = bench.model(material, bench.train(material))
    inquiry = Inquiry(model, material)
    found = report_invariance.noise(inquiry)
    assert found is not None
    axes = Asking().axes(model)
    ranges = torch.tensor([number.high - number.low for number in material.encoding.numeric])
    said = ask(model, torch.cat([torch.zeros(1, 10), torch.diag(ranges)]).float(), axes)["target"].mean[:, 0]
    slopes = float((said[1:] - said[0]).square().sum())
    clean = inquiry.measure("test", axes)["mse"]
    for point in found["by_sigma"]:
        assert point["value"] ** 2 == pytest.approx(clean + point["sigma"] ** 2 * slopes, rel=0.35)


def test_mixed_rows_teach_a_network(bench: Any) -> None:
    """Cross-entropy against shares: a network that mixes alone still tells the digits apart."""
    plain, mixed = (
        bench.train(bench.material("digits", epochs=15, early_stopping=None, architecture={"type": "mlp", "hidden": [64]}, **more))
        for more in ({}, {"augmentation": [{"type": "mixup", "alpha": 1.0}]})
    )
    accuracy = [each.series("validation.accuracy")[-1] for each in (plain, mixed)]
    assert accuracy[1] > 0.93
    assert accuracy[1] > accuracy[0] - 0.03
    assert mixed.series("train.loss")[-1] > 5 * plain.series("train.loss")[-1], "the entropy of the shares is not learnt away"


def test_a_reconstruction_is_held_to_the_rows_as_they_are_stored(bench: Any, heard: Heard) -> None:
    """A denoising autoencoder: its inputs are changed, what it is to say is not; a mix is held to the mix of clean rows."""
    fields = {"architecture": {"type": "autoencoder", "hidden": [16], "code": 4}, "epochs": 1}
    material = bench.material("digits", targets=[{"name": "input", "task": "reconstruction"}], augmentation=[NOISE], **fields)
    trained(material, 0)
    for _, rows, x, labels in heard:
        clean = torch.from_numpy(material.inputs[rows]).float()
        assert torch.equal(labels["input"], material.mirror(clean)["input"])
        assert not torch.equal(x, clean)
    mixed = bench.material("digits", targets=[{"name": "input", "task": "reconstruction"}], augmentation=[{"type": "mixup"}], **fields)
    heard.clear()
    trained(mixed, 0)
    for _, _, x, labels in heard:
        torch.testing.assert_close(labels["input"], mixed.mirror(x)["input"], rtol=1e-4, atol=1e-4)
    with pytest.raises(Invalid) as refused:
        bench.material("digits", targets=[{"name": "input", "task": "reconstruction"}], augmentation=[{"type": "cutmix"}], **fields)
    assert [flaw.pointer for flaw in refused.value.flaws] == ["/augmentation/0/type"]


def test_weights_of_rows_are_mixed_like_the_rows(bench: Any, heard: Heard) -> None:
    stream = np.random.default_rng(0)
    columns = {"row": np.arange(80.0), "w": np.arange(80.0) + 1, "y": stream.normal(size=80)}
    name = bench.table("weighted-mix", columns, targets=["y"])
    trained(bench.material(name, features={"weight": "w"}, augmentation=[{"type": "mixup", "alpha": 1.0}], epochs=1), 0)
    for _, _, x, labels in heard:
        weights, mixed = labels[""], x[:, 0] + 1  # weights are kept to a factor
        torch.testing.assert_close(weights / weights.sum(), mixed / mixed.sum())
