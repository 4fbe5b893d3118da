"""Catastrophic overfitting of one-step training: what watches for it, and what going back means."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from service.inference.robustness import Subject
from service.tricks.attacks import FGSM, PGD
from service.tricks.modes import Asking
from tests.training.test_resume import CPU, facts, on
from tests.training.test_stacks import MEMBERS, material, trained
from workers.training import overfitting
from workers.training.checkpointing import pack
from workers.training.guard import Guard
from workers.training.loop import Epoch, train
from workers.training.run import Run, start
from workers.training.task import Task

FAST: dict[str, Any] = {
    "architecture": {"type": "mlp", "hidden": [12]},
    "epochs": 4,
    "batch_size": 256,
    "adversarial_training": {"method": "fast", "epsilon": 1.0},
}


@pytest.mark.parametrize(
    ("fgsm", "pgd", "overfits"),
    [(0.9, 0.1, True), (0.7, 0.39, True), (0.7, 0.41, False), (0.3, 0.2, False), (0.95, 0.6, False), (0.45, 0.3, False)],
)
def test_it_is_a_fall_under_pgd_that_one_step_does_not_share(fgsm: float, pgd: float, overfits: bool) -> None:
    assert Guard(epoch=3, fgsm=0.7, pgd=0.6).overfits(fgsm, pgd, 0.2) == overfits
    assert not Guard().overfits(fgsm, pgd, 0.2), "the first epoch has nothing to go back to"


def test_every_epoch_is_watched_by_the_attacks_of_a_robustness_check(bench: Any) -> None:
    made = bench.material("digits", **FAST, early_stopping=None)
    done = bench.train(made)
    model = bench.model(made, done)
    x, labels = made.rows(made.parts.validation)
    assert len(x) > 256
    chosen = torch.linspace(0, len(x) - 1, 256, dtype=torch.float64).round().long()
    subject = Subject(model, Asking().axes(model), x[chosen].float(), labels["label"][chosen])
    for name, attack in (
        ("fgsm", FGSM(epsilon=1.0, bounds=None)),
        ("pgd", PGD(epsilon=1.0, bounds=None, steps=10, random_start=False)),
    ):
        standing = float(subject.attack(attack)[1].double().mean())
        # The check counts a row that any iterate breaks, and none that was wrong before: the last iterate leaves a little more.
        assert 0 <= done.series(f"validation.{name}_accuracy")[-1] - standing < 0.03
    assert done.series("validation.pgd_accuracy")[-1] < done.series("validation.fgsm_accuracy")[-1] + 1e-9


def test_numbers_are_watched_by_their_squared_error(bench: Any) -> None:
    done = bench.train(bench.material("diabetes", **{**FAST, "batch_size": 64}, early_stopping=None))
    for fgsm, pgd in zip(done.series("validation.fgsm_r2"), done.series("validation.pgd_r2"), strict=True):
        assert pgd <= fgsm + 0.02 <= 1


CODE = {"type": "autoencoder", "code": 8}
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "quantiles": ("diabetes", {"targets": [{"name": "target", "loss": "quantile", "quantiles": [0.1, 0.5, 0.9]}]}, "r2"),
    "smoothed classes": ("digits", {"targets": [{"name": "label", "label_smoothing": 0.1}]}, "accuracy"),
    "inputs": (
        "digits",
        {"targets": [{"name": "input", "task": "reconstruction"}], "architecture": {"type": "autoencoder", "code": 8}},
        "r2",
    ),
    "mixed classes": ("digits", {"augmentation": [{"type": "mixup"}]}, "accuracy"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_targets_are_watched_too(bench: Any, name: str) -> None:
    dataset, fields, score = OTHERS[name]
    done = bench.train(bench.material(dataset, **{**FAST, "batch_size": 64, **fields}))
    for fgsm, pgd in zip(done.series(f"validation.fgsm_{score}"), done.series(f"validation.pgd_{score}"), strict=True):
        assert pgd <= fgsm + 0.02 <= 1.02


def test_without_validation_rows_training_rows_are_watched(bench: Any) -> None:
    made = bench.material("digits", **FAST, split={"test": 0.2})
    assert len(made.parts.validation) == 0
    assert len(bench.train(made).series("validation.pgd_accuracy")) == 4


def epochs(made: Any, run: Run) -> Iterator[Epoch]:
    return (record for record in train(run, Task(made, run, CPU), tick_s=1e9) if isinstance(record, Epoch))


def test_a_member_goes_back_to_the_good_epoch_with_half_the_step(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a threshold that every epoch passes, all but the first are undone."""
    monkeypatch.setattr(overfitting, "FALL", -2.0)
    made = bench.material("digits", **FAST, early_stopping=None)
    run = start(made, (0,), CPU)
    seen, notes = [], []
    for record in epochs(made, run):
        seen.append(pack({name: tensor.clone() for name, tensor in run.state(0).items()}))
        notes.append(record.notes)
    assert [state == seen[0] for state in seen] == [True] * 4, "weights and moments of the first epoch, bit for bit"
    assert notes[0] == ()
    assert all("member 0 overfits" in note and "epoch 1" in note for (note,) in notes[1:])
    assert run.only.guard.share == 1 / 8
    assert [back["to"] for back in run.only.guard.rolled_back] == [1, 1, 1]
    assert [back["epoch"] for back in run.only.guard.rolled_back] == [2, 3, 4]
    assert (run.epoch, run.step, run.reason) == (4, 4 * 5, "epochs")
    assert pack(run.only.best) == pack(run.learned(0))


def test_an_epoch_that_was_undone_is_never_the_best(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench.material("digits", **{**FAST, "epochs": 20}, early_stopping={"patience": 3})
    assert bench.train(made).run.only.patience.epoch > 1
    monkeypatch.setattr(overfitting, "FALL", -2.0)
    done = bench.train(made)
    assert (done.run.only.patience.epoch, done.run.epoch, done.run.reason) == (1, 4, "early_stopping")


def test_half_a_step_is_another_training(bench: Any) -> None:
    made = bench.material("digits", **FAST, early_stopping=None)

    def halved(run: Run) -> None:
        run.only.guard.share = 0.5

    half = bench.material(
        "digits", **{**FAST, "adversarial_training": {**FAST["adversarial_training"], "step_size": 0.625}}, early_stopping=None
    )
    assert bench.train(made, prepared=halved).weights == bench.train(half).weights
    assert bench.train(made).weights != bench.train(half).weights


def test_an_interruption_after_a_roll_back_does_not_show(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some epochs are undone and some are not."""
    monkeypatch.setattr(overfitting, "FALL", -0.01)
    made = bench.material("digits", **{**FAST, "epochs": 8}, optimizer={"type": "adam", "learning_rate": 0.02}, early_stopping=None)
    straight, frozen = start(made, (0,), CPU), {}
    for pause, _ in enumerate(on(straight, Task(made, straight, CPU))):
        if straight.reason is None:
            frozen[pause] = bench.freeze(straight)
    assert 0 < len(straight.only.guard.rolled_back) < straight.epoch - 1
    for pause in (0, len(frozen) // 2, max(frozen)):
        run = bench.thaw(made, 0, frozen[pause])
        list(on(run, Task(made, run, CPU)))
        assert facts(run) == facts(straight)
        assert run.only.guard.capture() == straight.only.guard.capture()
        assert pack(run.only.guard.tensors) == pack(straight.only.guard.tensors)


def test_members_of_a_stack_go_back_by_themselves(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfitting, "FALL", -0.02)
    made = material(bench, "fast")
    run = start(made, MEMBERS, CPU, stacked=True)
    everyone = list(run.members)
    list(epochs(made, run))
    backs = [[back["epoch"] for back in member.guard.rolled_back] for member in everyone]
    assert len({tuple(each) for each in backs}) > 1, "not all at once"
    for number in MEMBERS:
        alone = start(made, (number,), CPU)
        list(epochs(made, alone))
        assert [back["epoch"] for back in alone.only.guard.rolled_back] == backs[number]
        for name, tensor in alone.only.best.items():
            torch.testing.assert_close(everyone[number].best[name], tensor, rtol=1e-2, atol=1e-3 * float(tensor.abs().max()) + 1e-6)
    pair = trained(made, (2, 0), stacked=True)
    assert {number: pack(best) for number, (best, *_) in pair.items()} == {number: pack(everyone[number].best) for number in (2, 0)}
