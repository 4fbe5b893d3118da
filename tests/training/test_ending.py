"""When training ends, and with what: epochs, steps, schedules, losses that explode, rows that are not there."""

from typing import Any

import numpy as np
import pytest
import torch

from service.errors import Invalid, TemperError
from workers.training.checkpointing import pack
from workers.training.loop import Diverged, Epoch, train
from workers.training.run import start
from workers.training.task import Task

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12]}, "epochs": 3, "batch_size": 256}


def test_epochs_steps_and_the_last_short_batch(bench: Any) -> None:
    material = bench.material("digits", **{**SMALL, "batch_size": 500}, early_stopping=None)
    train_rows = len(material.parts.train)
    trained = bench.train(material)
    assert (trained.run.reason, trained.run.step) == ("epochs", 3 * -(-train_rows // 500))
    capped = bench.train(bench.material("digits", **{**SMALL, "batch_size": 500}, early_stopping=None, max_steps=4))
    assert (capped.run.reason, capped.run.step, capped.run.epoch) == ("max_steps", 4, 2)
    assert [epoch.step for epoch in capped.epochs] == [3, 4]


def test_the_schedule_runs_over_all_epochs(bench: Any) -> None:
    schedule = {"type": "cosine", "final": 0.1, "warmup_epochs": 1}
    trained = bench.train(bench.material("digits", **{**SMALL, "epochs": 5}, schedule=schedule, early_stopping=None))
    steps = trained.run.step // 5
    # The rate of the epoch's last step; step `s` after the warm-up is a share of the rest.
    expected = [1.0] + [0.1 + 0.45 * (1 + np.cos(np.pi * (steps * (e + 1) - 1 - steps) / (4 * steps))) for e in range(1, 5)]
    assert trained.series("learning_rate") == pytest.approx([0.001 * value for value in expected], rel=1e-9)


def test_a_loss_that_explodes_at_once_is_an_error(bench: Any) -> None:
    fields = {"architecture": {"type": "mlp", "hidden": [8, 8]}, "batch_size": 64, "epochs": 30}
    with pytest.raises(Diverged, match="lower the learning rate"):
        bench.train(bench.material("diabetes", **fields, optimizer={"type": "sgd", "learning_rate": 1000.0}))


def test_a_loss_that_explodes_later_ends_with_the_best_weights(bench: Any) -> None:
    material = bench.material("diabetes", architecture={"type": "mlp", "hidden": [8]}, early_stopping={"patience": 1000})
    run = start(material, (0,), CPU)
    kept = b""
    for record in train(run, Task(material, run, CPU)):
        if isinstance(record, Epoch) and record.epoch == 5:
            kept = pack(run.only.best)
            with torch.no_grad():
                run.network.heads[0].bias.fill_(1e30)
    assert run.reason == "diverged"
    assert run.epoch == 6
    assert pack(run.only.best) == kept
    assert np.isfinite(run.only.patience.best)


def test_an_infinite_validation_is_not_worth_keeping(bench: Any) -> None:
    """The loss of a single full batch was taken before the step that ruined the weights."""
    architecture = {"type": "mlp", "hidden": [64] * 6, "activation": "identity", "init": "he"}
    material = bench.material(
        "diabetes",
        architecture=architecture,
        batch_size="full",
        epochs=1,
        optimizer={"type": "sgd", "learning_rate": 1000.0},
        preprocessing={"normalize": "none"},
    )
    with pytest.raises(Diverged):
        bench.train(material)


@pytest.mark.parametrize("broken", [1, 3])
def test_weights_that_an_epochs_last_step_broke_are_not_kept(bench: Any, broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is monitored: an epoch's loss is taken before its last step."""
    material = bench.material("digits", **{**SMALL, "batch_size": "full"}, early_stopping=None)
    run = start(material, (0,), CPU)
    step, kept = run.optimizer.step, []

    def breaking() -> None:
        step()
        kept.append(pack(run.network.learned()))
        if len(kept) == broken:
            with torch.no_grad():
                run.network.heads[0].bias[0] = torch.inf

    monkeypatch.setattr(run.optimizer, "step", breaking)
    if broken == 1:
        with pytest.raises(Diverged, match="lower the learning rate"):
            list(train(run, Task(material, run, CPU)))
        return
    list(train(run, Task(material, run, CPU)))
    assert (run.reason, run.epoch, run.only.patience.epoch) == ("diverged", 3, 2)
    assert pack(run.only.best) == kept[1]


def test_validation_without_a_label_keeps_something_or_is_refused(bench: Any) -> None:
    """Rows 0 to 8 of 40 have no number: there is nothing to stop by, and a run that keeps nothing makes no model."""
    rows = [i for i in range(120) if i % 40 < 9]
    fields = {**SMALL, "batch_size": 32, "early_stopping": {"patience": 2}}
    try:
        trained = bench.train(bench.material(bench.gappy(), **fields, targets=[{"name": "size"}], split={"validation_rows": rows}))
    except TemperError:
        return
    assert trained.run.only.best, f"ended by {trained.run.reason!r} and kept nothing"


def test_a_last_batch_of_one_row_can_be_normalized(bench: Any) -> None:
    architecture = {"type": "mlp", "hidden": [8], "batch_norm": True}
    material = bench.material(
        "diabetes", architecture=architecture, split={"test_rows": list(range(442 - 65)), "test": 0.0}, batch_size=64, epochs=2
    )
    assert len(material.parts.train) % 64 == 1
    assert bench.train(material).run.reason == "epochs"


def test_missing_entries_of_an_array_are_filled_or_refused(bench: Any) -> None:
    """Accepted at upload (`missing: nan`), they must not become a loss of NaN and advice about the learning rate."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    x[::7, 2] = np.nan
    try:
        trained = bench.train(bench.material(bench.arrays("holes", x=x, y=y), epochs=2))
    except Invalid:
        return
    assert np.isfinite(trained.series("train.loss")).all()
