"""The training loop: what is kept, and what is measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression

from service import blocks
from service.storage.files import Folder
from service.tricks.modes import Asking
from service.tricks.stopping import improves
from workers.messages import Assignment, Progress
from workers.training import evaluation
from workers.training.checkpointing import pack
from workers.training.loop import Epoch, train
from workers.training.members import Shard
from workers.training.run import start
from workers.training.task import Task

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12]}, "epochs": 3, "batch_size": 256}


@pytest.mark.parametrize("monitor", ["loss", "rmse", "accuracy"])
def test_the_kept_weights_are_those_of_the_best_epoch(bench: Any, monitor: str) -> None:
    dataset = "digits" if monitor == "accuracy" else "diabetes"
    stopping = {"monitor": monitor, "patience": 4}
    optimizer = {"type": "adam", "learning_rate": 0.02}
    material = bench.material(dataset, architecture={"type": "mlp", "hidden": [24]}, early_stopping=stopping, optimizer=optimizer)
    run = start(material, (0,), CPU)
    seen = [
        (record.values[f"validation.{monitor}"], pack(run.network.learned()), record.step)
        for record in train(run, Task(material, run, CPU))
        if isinstance(record, Epoch)
    ]
    values = [value for value, _, _ in seen]
    best = (max if improves(monitor) == "up" else min)(values)
    place = values.index(best)
    assert (run.reason, len(seen)) == ("early_stopping", place + 1 + 4)
    assert run.only.patience.best == best
    assert (run.only.patience.epoch, run.only.patience.step) == (place + 1, seen[place][2])
    assert pack(run.only.best) == seen[place][1]
    assert pack(run.only.best) != seen[-1][1], "the last are not the best"
    # The model that is asked has that very value.
    model = bench.model(material, bench.train(material))
    assert bench.measure(model, material, material.parts.validation, Asking(mode="single").axes(model))[monitor] == pytest.approx(
        best, rel=1e-5
    )


def test_without_early_stopping_the_last_weights_are_kept(bench: Any) -> None:
    trained = bench.train(bench.material("digits", **SMALL, early_stopping=None))
    assert trained.run.reason == "epochs"
    assert trained.weights == pack(trained.run.network.learned())
    assert (trained.run.only.patience.epoch, trained.run.only.patience.best) == (3, None)


MEASURED: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": ("digits", {}),
    "numbers": ("diabetes", {}),
    "gaussian": ("diabetes", {"targets": [{"name": "target", "loss": "gaussian_nll"}]}),
    "batch norm and dropout": ("digits", {"architecture": {"type": "mlp", "hidden": [12], "batch_norm": True, "dropout": 0.5}}),
    "numbers whose squares are beyond float32": ("huge", {"targets": [{"name": "y"}]}),
    "several": ("gappy", {"targets": [{"name": "kind", "weight": 0.5}, {"name": "size", "weight": 2.0}]}),
}


@pytest.mark.parametrize("name", MEASURED)
def test_every_epoch_measures_what_the_report_measures(bench: Any, name: str) -> None:
    dataset, fields = MEASURED[name]
    made = {"gappy": bench.gappy, "huge": lambda: bench.table("huge", {"x": [*range(90)], "y": [f"{row}e30" for row in range(90)]})}
    stored = made[dataset]() if dataset in made else dataset
    material = bench.material(stored, **{**SMALL, "batch_size": 32, **fields}, early_stopping=None)
    trained = bench.train(material)
    model = bench.model(material, trained)
    report = bench.measure(model, material, material.parts.validation, Asking(mode="single").axes(model))
    series = {
        name.removeprefix("validation."): value for name, value in trained.epochs[-1].values.items() if name.startswith("validation.")
    }
    assert {"loss"} < set(series)
    assert set(series) <= set(report)
    assert series == pytest.approx({name: report[name] for name in series}, rel=2e-5, abs=1e-7)


@pytest.mark.parametrize("rows", [1, 7, 16])
def test_blocks_of_validation_rows_do_not_show(bench: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where labels are missing: a mean of means weighs each by its labels, not by its rows."""
    rest = list(range(40, 120))
    material = bench.material(bench.gappy(), **{**SMALL, "batch_size": 32}, split={"validation_rows": rest})
    run = start(material, (0,), CPU)
    whole = Task(material, run, CPU).evaluate(run.network)[0]
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", rows)
    assert Task(material, run, CPU).evaluate(run.network)[0] == pytest.approx(whole, rel=1e-5)


def test_a_long_evaluation_beats_before_every_block(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over validation is no stall, however long it takes; blocks are bounded by bytes, wide rows and layers have fewer rows."""
    material = bench.material("digits", **SMALL)
    rows = len(material.parts.validation)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * (64 + 12) * 20)
    beats: list[int] = []
    run = start(material, (0,), CPU)
    task = Task(material, run, CPU, beat=lambda: beats.append(run.epoch))
    assert [len(x) for x, _ in task.evaluate.rows] == [20] * (rows // 20) + [rows % 20]
    epochs = [record for record in train(run, task) if isinstance(record, Epoch)]
    assert beats == [epoch for epoch in (1, 2, 3) for _ in task.evaluate.rows]
    assert len(epochs) == 3


def test_a_shard_reports_while_it_evaluates(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One step an epoch, so that after the first only the blocks of validation rows and the epoch's end can be heard of."""
    told: list[Progress] = []

    class Ears:
        order = None
        send = log = metrics = staticmethod(lambda *_: None)
        progress = staticmethod(told.append)

    material = bench.material("digits", **{**SMALL, "batch_size": "full"})
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", 100)
    assignment = Assignment("job_x", 0, "train", 1, (0,), {}, "", "jobs/job_x/0", "mdl_x", Folder(tmp_path))
    Shard(assignment, material, Ears(), CPU).run()
    passes = -(-len(material.parts.validation) // 100)
    assert passes == 3
    assert [progress.epoch for progress in told] == [0] + [epoch for epoch in (1, 2, 3) for _ in range(passes + 1)]
    assert [progress.fraction for progress in told] == sorted(progress.fraction for progress in told)


def test_the_training_loss_is_the_mean_over_rows(bench: Any) -> None:
    """Also with a last short batch; at a learning rate of next to nothing it is the loss of the weights at the start."""
    material = bench.material("digits", **{**SMALL, "batch_size": 1000}, optimizer={"type": "sgd", "learning_rate": 1e-12}, max_steps=2)
    trained = bench.train(material)
    x, labels = material.rows(material.parts.train)
    with torch.no_grad():
        losses = material.spec.targets[0].losses(trained.run.network(x)["label"], labels["label"])
    assert trained.series("train.loss")[0] == pytest.approx(float(losses.mean()), rel=1e-6)


def test_what_is_learned_generalizes(bench: Any) -> None:
    digits = bench.material("digits", architecture={"type": "mlp", "hidden": [32]}, epochs=15)
    model = bench.model(digits, bench.train(digits))
    assert bench.measure(model, digits, digits.parts.test, Asking().axes(model))["accuracy"] > 0.93
    diabetes = bench.material(
        "diabetes", targets=[{"name": "target", "loss": "gaussian_nll"}], optimizer={"type": "adam", "learning_rate": 0.02}
    )
    model = bench.model(diabetes, bench.train(diabetes))
    parts, truth = diabetes.parts, diabetes.originals["target"]
    found = bench.measure(model, diabetes, parts.test, Asking().axes(model))
    linear = LinearRegression().fit(diabetes.inputs[parts.train], truth[parts.train])
    assert found["r2"] > linear.score(diabetes.inputs[parts.test], truth[parts.test]) - 0.05
    one_for_all = -stats.norm.logpdf(truth[parts.test], truth[parts.train].mean(), truth[parts.train].std()).mean()
    assert found["nll"] < one_for_all - 0.1


@pytest.mark.parametrize("name", ["classes", "categories", "gaps"])
def test_the_adversarial_loss_is_that_of_moved_validation_rows(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the spec's own attack against the network as it is served, row by row, then the plain loss; blocks do not show."""
    training = {"method": "fgsm", "epsilon": 0.7, "weight": 0.5}
    dataset, fields = {
        "classes": ("digits", {"architecture": {"type": "mlp", "hidden": [12], "batch_norm": True, "dropout": 0.5}}),
        "categories": ("diabetes", {}),
        "gaps": (bench.gappy(), {"targets": [{"name": "kind", "weight": 0.5}, {"name": "size", "weight": 2.0}]}),
    }[name]
    material = bench.material(
        dataset, **{**SMALL, "batch_size": 32, **fields}, adversarial_training=training, early_stopping={"monitor": "adversarial_loss"}
    )
    run = start(material, (0,), CPU)
    task = Task(material, run, CPU)
    record = next(epoch for epoch in train(run, task, tick_s=1e9) if isinstance(epoch, Epoch))
    x, labels = material.rows(material.parts.validation)
    served, moved = run.network.eval(), []
    for row in range(len(x)):
        own = {key: values[row : row + 1] for key, values in labels.items()}
        known = any(not target.missing(own[target.name]).any() for target in material.spec.targets)
        perturb = material.spec.adversarial_training.perturb
        one = x[row : row + 1].float()
        moved.append(perturb(one, lambda rows, own=own: task.loss(served(rows), own), material.movable) if known else one)
    expected = float(task.loss(served(torch.cat(moved)), labels).detach())
    found = record.values["validation.adversarial_loss"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > record.values["validation.loss"]
    assert run.only.patience.best == found
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", 7)
    assert Task(material, run, CPU).evaluate(run.network)[0]["adversarial_loss"] == pytest.approx(found, rel=1e-5)


def test_the_adversarial_loss_of_a_stack_is_that_of_each_member(bench: Any) -> None:
    material = bench.material(
        "digits",
        **SMALL,
        ensemble={"size": 3},
        adversarial_training={"method": "fgsm", "epsilon": 1.0},
        early_stopping={"monitor": "adversarial_loss"},
    )
    together = start(material, (0, 1, 2), CPU, stacked=True)
    found = Task(material, together, CPU).evaluate(together.network)
    for member in range(3):
        alone = start(material, (member,), CPU)
        assert found[member] == pytest.approx(Task(material, alone, CPU).evaluate(alone.network)[0], rel=1e-5)


def test_the_adversarial_loss_is_measured_where_it_decides_alone(bench: Any) -> None:
    material = bench.material("digits", **SMALL, adversarial_training={"method": "fgsm", "epsilon": 1.0})
    assert "validation.adversarial_loss" not in bench.train(material).epochs[0].values


MONITORS = [
    ("digits", {}, ("loss", "error", "accuracy", "nll", "brier", "balanced_accuracy", "f1_macro", "auroc", "ece")),
    ("diabetes", {}, ("loss", "rmse", "mse", "mae", "r2")),
    ("diabetes", {"targets": [{"name": "target", "loss": "gaussian_nll"}]}, ("loss", "nll", "r2")),
]


@pytest.mark.parametrize(("dataset", "fields", "monitor"), [(data, fields, name) for data, fields, names in MONITORS for name in names])
def test_what_is_monitored_is_what_is_reported(bench: Any, dataset: str, fields: Any, monitor: str) -> None:
    stopping = {"monitor": monitor, "patience": 50}
    material = bench.material(dataset, **{**SMALL, **fields, "batch_size": 64}, early_stopping=stopping)
    trained = bench.train(material)
    series = trained.series(f"validation.{monitor}")
    assert trained.run.only.patience.best == (max if improves(monitor) == "up" else min)(series)
    model = bench.model(material, trained)
    report = bench.measure(model, material, material.parts.validation, Asking(mode="single").axes(model))
    assert trained.run.only.patience.best == pytest.approx(report[monitor], rel=2e-5)


def denormal() -> float:
    """A number below 1.2e-38, which a processor that is told so takes for 0."""
    return float(torch.tensor(1e-39).mul(1.0))


def test_denormal_numbers_count_as_nothing_within_a_step_alone(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench.material("diabetes", epochs=1)
    run, seen = start(made, (0,), CPU), []
    stepped = run.optimizer.step
    monkeypatch.setattr(run.optimizer, "step", lambda: (seen.append(denormal()), stepped()))
    for _ in train(run, Task(made, run, CPU)):
        assert denormal() > 0
    assert set(seen) == {0.0}
    monkeypatch.setattr(run.optimizer, "step", lambda: 1 / 0)
    run.members[0].reason = None
    with pytest.raises(ZeroDivisionError):
        next(train(run, Task(made, run, CPU)))
    assert denormal() > 0
